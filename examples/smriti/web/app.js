// The whole client: what the service says is put on the page as text, never as markup.
const $ = (id) => document.getElementById(id);
const store = window.sessionStorage;
let cursor = null;

async function call(method, path, { json, form, query } = {}) {
  const headers = {};
  const token = store.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  if (json) headers["Content-Type"] = "application/json";
  const address = query ? `${path}?${new URLSearchParams(query)}` : path;
  const answer = await fetch(address, { method, headers, body: json ? JSON.stringify(json) : form });
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401 && token) leave();
  if (!answer.ok) throw new Error(body.error || `The service answered ${answer.status}`);
  return body;
}

function say(text, wrong = false) {
  $("notice").textContent = text;
  $("notice").classList.toggle("wrong", wrong);
}

function element(name, text, properties = {}) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  return Object.assign(made, properties);
}

// Runs what a form asks for, once at a time; trouble is said, and what was typed stays.
function onSubmit(id, work) {
  $(id).addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = event.currentTarget;
    const filled = new FormData(form, event.submitter); // before the button is disabled: then it would say nothing
    const buttons = [...form.querySelectorAll("button")];
    buttons.forEach((button) => { button.disabled = true; });
    try {
      say("");
      await work(filled, form);
    } catch (error) {
      say(error.message, true);
    } finally {
      buttons.forEach((button) => { button.disabled = false; });
    }
  });
}

function item(post) {
  const row = element("li");
  if (post.title) row.append(element("h3", post.title));
  if (post.textContent) row.append(element("p", post.textContent));
  if (post.linkUrl && /^https?:/.test(post.linkUrl)) {
    row.append(element("a", post.linkUrl, { href: post.linkUrl, rel: "noopener noreferrer" }));
  }
  if (post.imageUrl) {
    const path = new URL(post.imageUrl, location.href).pathname;
    row.append(element("img", undefined, { src: path, alt: post.title || `Image by ${post.author.username}`, loading: "lazy" }));
  }
  const when = element("time", new Date(post.createdAt).toLocaleString(), { dateTime: post.createdAt });
  const meta = element("p", `${post.author.username} · `, { className: "meta" });
  meta.append(when);
  row.append(meta);
  return row;
}

async function showFeed({ older = false } = {}) {
  $("feed").setAttribute("aria-busy", "true");
  const query = { limit: 20, ...(older && cursor ? { cursor } : {}) };
  const from = $("from").value;
  const { data } = await call("GET", from ? `/api/circles/${from}/posts` : "/api/posts", { query });
  const rows = data.posts.map(item);
  if (older) $("feed").append(...rows);
  else $("feed").replaceChildren(...(rows.length ? rows : [element("li", "Nothing yet. Write the first note.")]));
  cursor = data.next_cursor;
  $("older").hidden = cursor === null;
  $("feed").setAttribute("aria-busy", "false");
}

async function showCircles() {
  const { data } = await call("GET", "/api/circles", { query: { limit: 50 } });
  for (const choices of [$("write").elements.circle, $("from")]) {
    const chosen = choices.value;
    const names = data.circles.map((circle) => element("option", circle.name, { value: circle.circleId }));
    choices.replaceChildren(element("option", "everybody", { value: "" }), ...names);
    choices.value = data.circles.some((circle) => circle.circleId === chosen) ? chosen : "";
  }
  const rows = [];
  for (const circle of data.circles) {
    const row = element("li");
    row.append(element("h3", `${circle.emoji || ""} ${circle.name}`.trim()));
    const full = await call("GET", `/api/circles/${circle.circleId}`);
    const { members, inviteCode } = full.data.circle;
    row.append(element("p", `${members.map((member) => member.username).join(", ")} · invite code ${inviteCode}`, { className: "meta" }));
    rows.push(row);
  }
  $("circles").replaceChildren(...(rows.length ? rows : [element("li", "You are in no circle yet.")]));
}

async function showQuote() {
  const today = await call("GET", "/api/quotes/today");
  $("quote").textContent = today.has_quote ? `${today.quote.text} (${today.quote.author.username})` : today.message;
}

async function show() {
  const inside = store.getItem("token") !== null;
  $("door").hidden = inside;
  $("inside").hidden = !inside;
  $("whoami").hidden = $("sign-out").hidden = !inside;
  if (!inside) return;
  $("whoami").textContent = store.getItem("username");
  await Promise.all([showFeed(), showCircles(), showQuote()]);
}

function leave() {
  store.clear();
  show();
}

onSubmit("enter", async (form) => {
  const way = form.get("way") || "login";
  const account = { username: form.get("username"), password: form.get("password") };
  if (way === "signup" && form.get("email")) account.email = form.get("email");
  const { data } = await call("POST", `/api/auth/${way}`, { json: account });
  store.setItem("token", data.token);
  store.setItem("username", data.username);
  await show();
  $("main").focus({ preventScroll: true });
  scrollTo(0, 0);
});

onSubmit("write", async (form, element_) => {
  const image = form.get("image");
  const post = new FormData();
  post.set("content_type", image && image.size ? "image" : "note");
  for (const name of ["title", "text_content"]) if (form.get(name)) post.set(name, form.get(name));
  if (image && image.size) post.set("image", image);
  if (form.get("circle")) {
    post.set("visibility", "circles");
    post.set("circle_ids", form.get("circle"));
  }
  await call("POST", "/api/posts/", { form: post });
  element_.reset();
  await showFeed();
  say("Posted.");
});

onSubmit("found", async (form, element_) => {
  await call("POST", "/api/circles/", { json: { name: form.get("name") } });
  element_.reset();
  await showCircles();
});

onSubmit("join", async (form, element_) => {
  await call("POST", "/api/circles/join", { json: { inviteCode: form.get("inviteCode") } });
  element_.reset();
  await showCircles();
});

$("from").addEventListener("change", () => showFeed().catch((error) => say(error.message, true)));
$("older").addEventListener("click", () => showFeed({ older: true }).catch((error) => say(error.message, true)));
$("sign-out").addEventListener("click", leave);
$("circles-box").open = matchMedia("(min-width: 60rem)").matches;
show().catch((error) => say(error.message, true));
