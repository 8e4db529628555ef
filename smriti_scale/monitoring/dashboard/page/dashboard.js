// The dashboard: takes snapshots from the stream and draws them. Nothing is loaded from elsewhere.

const $ = (id) => document.getElementById(id);
const NONE = "–";

// --- how figures read

const grouped = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });

const count = (value) => (value == null ? NONE : grouped.format(value));

function duration(seconds) {
  if (seconds == null) return NONE;
  if (seconds === 0) return "0 ms";
  if (seconds < 0.01) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(2)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

function percent(ratio, digits) {
  if (ratio == null) return NONE;
  const value = ratio * 100;
  const size = Math.abs(value);
  const places = digits ?? (size === 0 || size === 100 ? 0 : size < 1 ? 2 : 1);
  if (size > 0 && size < 0.005 && digits == null) return "<0.01 %";
  if (value < 100 && value > 99.9 && digits == null) return "99.9 %"; // never rounded up to all
  return `${value.toFixed(places).replace("-", "−")} %`;
}

function rate(perSecond) {
  if (perSecond == null) return NONE;
  if (perSecond === 0) return "0/s";
  if (perSecond < 0.1) return `${(perSecond * 60).toFixed(perSecond * 60 < 1 ? 2 : 1)}/min`;
  return perSecond < 100 ? `${perSecond.toFixed(1)}/s` : `${grouped.format(perSecond)}/s`;
}

function bytes(value) {
  if (value == null) return NONE;
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024 || unit === "GiB") return `${value < 10 && unit !== "B" ? value.toFixed(1) : Math.round(value)} ${unit}`;
    value /= 1024;
  }
}

const inUnit = (value, unit) => (unit === "seconds" ? duration(value) : percent(value));
const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const listed = (words) => (words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);

// --- the document, changed only where something changed

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A path may be broken after its slashes, and anywhere only where that does not suffice.
function writePath(node, path) {
  if (node.textContent === path) return;
  const pieces = path.split(/(?<=[/.])/).flatMap((piece) => [piece, document.createElement("wbr")]);
  node.replaceChildren(...pieces.slice(0, -1));
}

function mark(node, name, value) {
  if (value == null || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

function make(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text != null) node.textContent = text;
  return node;
}

function nested(parent, className, tag = "span") {
  return parent.querySelector(`:scope > .${className}`) ?? parent.appendChild(make(tag, className));
}

// One child for each item, kept from one snapshot to the next, so that focus and selection stay.
function each(parent, items, key, tag, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    let child = known.get(name);
    if (child) known.delete(name);
    else {
      child = make(tag);
      child.dataset.key = name;
    }
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item);
  }
  for (const child of known.values()) child.remove();
}

function stats(list, pairs) {
  const shown = pairs.filter(([, text]) => text != null);
  each(list, shown, ([name]) => name, "div", (box, [name, text, tone]) => {
    write(nested(box, "term", "dt"), name);
    write(nested(box, "figure", "dd"), text);
    mark(box, "data-tone", tone);
  });
  list.hidden = shown.length === 0;
}

function table(holder, caption, columns, items, key, sorting) {
  const node = holder.querySelector("table");
  if (!node.tHead) {
    node.createCaption().className = "unseen";
    const row = node.createTHead().insertRow();
    for (const column of columns) {
      const head = make("th", column.kind);
      head.scope = "col";
      if (sorting && column.sort) {
        const button = make("button", "sort");
        button.type = "button";
        button.append(make("span", "", column.head), make("span", "arrow"));
        button.lastChild.setAttribute("aria-hidden", "true");
        button.addEventListener("click", () => sorting.by(column.head));
        head.append(button);
      } else head.textContent = column.head;
      row.append(head);
    }
    node.createTBody();
  }
  write(node.caption, caption);
  if (sorting) {
    [...node.tHead.rows[0].cells].forEach((head, at) => {
      const chosen = sorting.column === columns[at].head;
      mark(head, "aria-sort", chosen ? (sorting.down ? "descending" : "ascending") : null);
      const arrow = head.querySelector(".arrow");
      if (arrow) write(arrow, chosen ? (sorting.down ? "▾" : "▴") : "");
    });
  }
  each(node.tBodies[0], items, key, "tr", (row, item) => {
    columns.forEach((column, at) => {
      let cell = row.cells[at];
      if (!cell) {
        cell = row.appendChild(make(at === 0 ? "th" : "td", column.kind));
        if (at === 0) cell.scope = "row";
      }
      if (column.draw) column.draw(cell, item);
      else write(cell, column.text(item));
      mark(cell, "data-tone", column.tone?.(item));
    });
  });
  holder.hidden = items.length === 0;
}

// --- drawings

const SVG = "http://www.w3.org/2000/svg";

function spark(holder, points, { threshold, label, text }) {
  const known = points.filter(([, value]) => value != null);
  let svg = holder.querySelector("svg");
  if (!svg) {
    svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 100 40");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    for (const name of ["area", "line", "limit"]) {
      const path = svg.appendChild(document.createElementNS(SVG, "path"));
      path.setAttribute("class", name);
      path.setAttribute("vector-effect", "non-scaling-stroke");
    }
    holder.append(svg, make("span", "dot"));
    holder.lastChild.setAttribute("aria-hidden", "true");
  }
  const [area, line, limit] = svg.children;
  const dot = holder.querySelector(".dot");
  const values = known.map(([, value]) => value);
  const highest = Math.max(...values, (threshold ?? 0) * 1.2, 1e-9);
  const first = points[0]?.[0] ?? 0;
  const width = Math.max((points.at(-1)?.[0] ?? 1) - first, 1e-9);
  const x = (at) => ((at - first) / width) * 100;
  const y = (value) => 38 - (value / highest) * 35;
  let drawn = "";
  let filled = "";
  let run = [];
  const close = () => {
    if (run.length > 1) {
      const path = run.map(([at, value], n) => `${n ? "L" : "M"}${x(at).toFixed(2)} ${y(value).toFixed(2)}`).join("");
      drawn += path;
      filled += `${path}L${x(run.at(-1)[0]).toFixed(2)} 40L${x(run[0][0]).toFixed(2)} 40Z`;
    }
    run = [];
  };
  for (const point of points) {
    if (point[1] == null) close();
    else run.push(point);
  }
  close();
  mark(line, "d", drawn || "M0 0");
  mark(area, "d", filled || "M0 0");
  mark(limit, "d", threshold == null ? "M0 0" : `M0 ${y(threshold).toFixed(2)}H100`);
  dot.hidden = drawn === "";
  if (drawn) {
    dot.style.left = `${x(known.at(-1)[0])}%`;
    dot.style.top = `${(y(known.at(-1)[1]) / 40) * 100}%`;
  }
  mark(svg, "aria-label", values.length
    ? `${label}: between ${text(Math.min(...values))} and ${text(Math.max(...values))}, now ${text(values.at(-1))}`
    : `${label}: nothing yet`);
}

function bar(holder, share, className = "fill") {
  const fill = nested(holder, className);
  fill.style.width = `${Math.min(Math.max(share ?? 0, 0), 1) * 100}%`;
  holder.setAttribute("aria-hidden", "true");
}

// --- the sections

const NUMBERS = {
  latency: "Latency p95",
  errors: "Errors",
  database: "Query mean",
  memory: "Memory",
  cpu: "CPU",
};
const titled = (name) => NUMBERS[name] ?? capital(name);

function numbers(statuses) {
  each($("numbers"), statuses, (one) => one.name, "li", (card, one) => {
    card.className = "card";
    const verdict = one.met == null ? "none" : one.met ? "met" : "missed";
    mark(card, "data-verdict", verdict);
    const head = nested(card, "head", "div");
    write(nested(head, "title", "h2"), titled(one.name));
    write(nested(head, "badge"), { none: "○ No data", met: "✓ Met", missed: "✕ Missed" }[verdict]);
    write(nested(card, "value", "p"), inUnit(one.value, one.unit));
    write(nested(card, "goal", "p"), capital(one.title));
    spark(nested(card, "spark", "div"), one.history, {
      threshold: one.threshold,
      label: `${titled(one.name)} lately`,
      text: (value) => inUnit(value, one.unit),
    });
    const budget = nested(card, "budget", "div");
    const left = one.budget_left;
    mark(budget, "data-tone", left == null ? null : left <= 0 ? "bad" : left < 0.25 ? "warn" : null);
    write(nested(budget, "words", "p"), left == null ? "Error budget: no data" : left < 0 ? `Budget overspent by ${percent(-left, 0)}` : `Error budget left ${percent(left, 0)}`);
    bar(nested(budget, "track"), left);
    const burning = Object.entries(one.burn).filter(([window]) => window === "5m" || window === "1h");
    const rates = burning.map(([window, value]) => `${value == null ? NONE : value.toFixed(value < 9.95 ? 1 : 0)}× ${window.replace("m", " min").replace("h", " h")}`);
    write(nested(budget, "burn", "p"), rates.length ? `Burn ${rates.join(", ")}` : "");
  });
}

function verdict(data) {
  const missed = data.numbers.filter((one) => one.met === false);
  const known = data.numbers.filter((one) => one.met != null);
  let text;
  if (missed.length) {
    text = `${missed.length === data.numbers.length ? "All" : missed.length} of ${data.numbers.length} objectives ${missed.length === 1 ? "is" : "are"} missed: ${listed(missed.map((one) => titled(one.name)))}.`;
  } else if (!data.numbers.length) text = "No objectives are evaluated here.";
  else if (!known.length) text = "Waiting for traffic.";
  else if (known.length < data.numbers.length) text = `${known.length} of ${data.numbers.length} objectives have data, and are met.`;
  else text = "Every objective is met.";
  if (data.alerts.length) text += data.alerts.length === 1 ? " One alert is active." : ` ${data.alerts.length} alerts are active.`;
  write($("verdict"), text);
  mark(document.body, "data-verdict", missed.length || data.alerts.length ? "missed" : "met");
  document.title = `${missed.length || data.alerts.length ? "✕ " : ""}${data.title}`;
  say(text);
}

function alerts(data) {
  each($("alerts"), data.alerts, (one) => `${one.key}/${one.severity}`, "li", (item, one) => {
    mark(item, "data-severity", one.severity);
    write(nested(item, "tag"), one.severity === "page" ? "▲ Page" : "● Ticket");
    write(nested(item, "words"), one.detail ? `${one.title} (${one.detail})` : one.title);
    write(nested(item, "since"), one.since ? `for ${duration(Math.max(data.at - one.since, 0))}` : "");
  });
  $("alerts").hidden = data.alerts.length === 0;
}

function traffic(data) {
  const all = data.traffic;
  stats($("traffic-stats"), [
    ["Requests", rate(all.rate)],
    ["Counted", count(all.requests)],
    ["Errors", percent(all.error_ratio), all.errors ? "bad" : null],
    ["Median", duration(all.p50)],
    ["95 % under", duration(all.p95)],
    ["In progress", count(all.in_progress)],
  ]);
  spark($("traffic-spark"), all.history, { label: "Requests per second lately", text: rate });
  $("traffic").hidden = false;
}

const sorting = {
  column: "p95",
  down: true,
  by(column) {
    this.down = this.column === column ? !this.down : column !== "Route";
    this.column = column;
    if (shown) routes(shown);
  },
};
const ROUTES = [
  { head: "Route", kind: "name", sort: (row) => `${row.route} ${row.method}`, draw: (cell, row) => {
    write(nested(cell, "method"), row.method);
    writePath(nested(cell, "path"), row.route);
  } },
  { head: "Rate", kind: "number", sort: (row) => row.rate, text: (row) => rate(row.rate) },
  { head: "Requests", kind: "number wide", sort: (row) => row.requests, text: (row) => count(row.requests) },
  { head: "p50", kind: "number wide", sort: (row) => row.p50, text: (row) => duration(row.p50) },
  { head: "p95", kind: "number", sort: (row) => row.p95, text: (row) => duration(row.p95) },
  { head: "p50 to p95", kind: "range wide", draw: (cell, row) => {
    const track = nested(cell, "track");
    bar(track, 1);
    const fill = track.firstChild;
    fill.style.left = `${(row.p50 / row.scale) * 100}%`;
    fill.style.width = `${Math.max(((row.p95 - row.p50) / row.scale) * 100, 1)}%`;
  } },
  { head: "Errors", kind: "number", sort: (row) => row.error_ratio, text: (row) => percent(row.error_ratio), tone: (row) => (row.errors ? "bad" : null) },
];

function routes(data) {
  const scale = Math.max(...data.routes.map((row) => row.p95 ?? 0), 1e-9);
  const value = ROUTES.find((column) => column.head === sorting.column).sort;
  const rows = data.routes.map((row) => ({ ...row, scale }));
  rows.sort((one, other) => {
    const [a, b] = [value(one) ?? -1, value(other) ?? -1];
    return (a < b ? -1 : a > b ? 1 : 0) * (sorting.down ? -1 : 1);
  });
  table($("routes"), "Slowest routes", ROUTES, rows, (row) => `${row.method} ${row.route}`, sorting);
}

function over(data) {
  const { name, seconds } = data.window;
  if (name === "start") return "Counts are since the start.";
  const whole = { "5m": 300, "1h": 3600 }[name];
  const seen = seconds < 60 ? `${Math.round(seconds)} s` : duration(seconds);
  return `Counts are of the ${seconds < whole * 0.9 ? `${seen} seen so far` : name === "5m" ? "last 5 minutes" : "last hour"}.`;
}

function mongo(data) {
  const part = data.mongo;
  $("mongo").hidden = !part;
  if (!part) return false;
  each($("mongo-nodes"), part.nodes, (node) => node.node, "li", (item, node) => {
    const used = node.limit ? node.in_use / node.limit : null;
    write(nested(item, "name"), node.node);
    write(nested(item, "words"), [
      node.in_use == null ? null : `${count(node.in_use)}${node.limit ? ` of ${count(node.limit)}` : ""} in use, ${count(node.idle)} idle`,
      node.waiting ? `${count(node.waiting)} waiting` : null,
      node.lag == null ? null : node.lag > 0 ? `${duration(node.lag)} behind` : "up to date",
    ].filter(Boolean).join(" · "));
    mark(item, "data-tone", node.waiting > 0 || used > 0.9 ? "bad" : node.lag > 10 ? "warn" : null);
    bar(nested(item, "track"), used);
  });
  table($("mongo-commands"), "MongoDB commands by the time they took", [
    { head: "Command", kind: "name", draw: (cell, row) => {
      write(nested(cell, "path"), row.collection || "(none)");
      write(nested(cell, "method"), row.command);
    } },
    { head: "Count", kind: "number wide", text: (row) => count(row.count) },
    { head: "Mean", kind: "number", text: (row) => duration(row.mean), tone: (row) => (row.mean > 0.1 ? "bad" : null) },
    { head: "p95", kind: "number", text: (row) => duration(row.p95) },
    { head: "Errors", kind: "number", text: (row) => count(row.errors), tone: (row) => (row.errors ? "bad" : null) },
  ], part.commands, (row) => `${row.collection}/${row.command}`);
  const told = (value) => (value ? count(value) : null);
  stats($("mongo-stats"), [
    ["Pool exhausted", told(part.pool_exhausted), "bad"],
    ["Primary changes", told(part.primary_changes), "warn"],
    ["Read from primary instead", told(part.fell_back_to_primary)],
    ["Waits for own writes", told(part.causal_waits)],
    ["of these, 95 % under", part.causal_waits ? duration(part.causal_wait_p95) : null],
    ["Slow queries", told(part.slow_queries), "warn"],
    ["Repeated queries (N+1)", told(part.repeated_queries), "warn"],
  ]);
  return true;
}

const TIERS = [["memory", "memory"], ["redis", "Redis"], ["stale", "stale"], ["miss", "miss"]];

function caches(data) {
  const rows = data.caches.map((row) => ({ ...row, title: row.cache, tiers: TIERS }));
  if (data.http_cache) {
    const http = data.http_cache;
    rows.push({
      cache: "(HTTP)", title: "HTTP answers", hit_ratio: http.hit_ratio, requests: http.hit + http.stale + http.miss,
      memory: http.hit, stale: http.stale, miss: http.miss, bypass: http.bypass, tiers: [["memory", "hit"], ["stale", "stale"], ["miss", "miss"]],
    });
  }
  $("caches").hidden = rows.length === 0;
  each($("caches-list"), rows, (row) => row.cache, "li", (item, row) => {
    const head = nested(item, "head", "div");
    write(nested(head, "name"), row.title);
    write(nested(head, "big"), percent(row.hit_ratio));
    const track = nested(item, "track", "div");
    track.classList.add("stacked");
    track.setAttribute("aria-hidden", "true");
    for (const [tier] of row.tiers) nested(track, tier).style.width = `${row.requests ? (row[tier] / row.requests) * 100 : 0}%`;
    write(nested(item, "words", "p"), [
      ...row.tiers.map(([tier, word]) => `${count(row[tier])} ${word}`),
      row.bypass ? `${count(row.bypass)} not shared` : null,
      row.load_p95 == null ? null : `loads 95 % under ${duration(row.load_p95)}`,
      row.entries == null ? null : `${count(row.entries)} entries, ${bytes(row.bytes)}`,
      row.evictions ? `${count(row.evictions)} evicted` : null,
    ].filter(Boolean).join(" · "));
  });
  return rows.length > 0;
}

function limits(data) {
  $("limits").hidden = data.limits.length === 0;
  table($("limits"), "Decisions of rate limits", [
    { head: "Limit", kind: "name", draw: (cell, row) => {
      write(nested(cell, "path"), row.limit);
      writePath(nested(cell, "method"), row.route + (row.tier ? ` · ${row.tier}` : ""));
    } },
    { head: "Allowed", kind: "number", text: (row) => count(row.allowed) },
    { head: "Refused", kind: "number", text: (row) => count(row.refused), tone: (row) => (row.refused ? "warn" : null) },
    { head: "Shadow", kind: "number wide", text: (row) => count(row.shadow) },
    { head: "Without Redis", kind: "number wide", text: (row) => count(row.fell_back), tone: (row) => (row.fell_back ? "warn" : null) },
  ], data.limits, (row) => `${row.limit}/${row.route}/${row.tier}`);
  return data.limits.length > 0;
}

function redis(data) {
  const part = data.redis;
  $("redis").hidden = !part;
  if (!part) return false;
  each($("redis-breakers"), part.breakers, (one) => one.breaker, "li", (item, one) => {
    mark(item, "data-tone", one.state === "open" ? "bad" : one.state === "closed" ? null : "warn");
    write(nested(item, "words"), `${one.state === "closed" ? "✓" : "✕"} ${one.breaker}: ${one.state === "closed" ? "calls pass" : one.state === "open" ? "circuit open, calls refused" : "circuit half open"}`);
  });
  table($("redis-users"), "Calls to Redis", [
    { head: "Caller", kind: "name", text: (row) => row.user },
    { head: "Calls", kind: "number", text: (row) => count(row.calls) },
    { head: "Mean", kind: "number wide", text: (row) => duration(row.mean) },
    { head: "p95", kind: "number", text: (row) => duration(row.p95) },
    { head: "Failed", kind: "number", text: (row) => count(row.errors), tone: (row) => (row.errors ? "bad" : null) },
  ], part.users, (row) => row.user);
  return true;
}

function slow(data) {
  $("slow").hidden = data.slow_queries.length === 0;
  each($("slow-list"), data.slow_queries, (one) => `${one.database}/${one.shape}`, "li", (item, one) => {
    write(nested(item, "shape", "code"), one.shape);
    const worst = one.worst_milliseconds ?? one.worst ?? one.milliseconds;
    write(nested(item, "words", "p"), [
      one.count == null ? null : `${count(one.count)}×`,
      worst == null ? null : `worst ${duration(worst / 1000)}`,
      one.database ? `in ${one.database}` : null,
    ].filter(Boolean).join(" · "));
    const cure = nested(item, "cure", "div");
    cure.hidden = !one.wants;
    write(nested(cure, "index", "code"), one.wants ?? "");
    if (!cure.querySelector("button")) {
      const button = cure.appendChild(make("button", "quiet", "Copy"));
      button.type = "button";
      button.addEventListener("click", () => copy(button));
    }
    mark(cure.querySelector("button"), "aria-label", `Copy ${one.wants}`);
  });
  return data.slow_queries.length > 0;
}

async function copy(button) {
  await navigator.clipboard.writeText(button.parentElement.querySelector(".index").textContent);
  write(button, "Copied");
  say("Copied.");
  setTimeout(() => write(button, "Copy"), 2000);
}

function tasks(data) {
  const part = data.tasks;
  $("tasks").hidden = !part;
  if (!part) return false;
  stats($("tasks-stats"), [
    ["Published", count(part.published)],
    ["Not published", part.publish_failures ? count(part.publish_failures) : null, "bad"],
    ["Running", part.running == null ? null : count(part.running)],
    ["Dead letters", part.dead == null ? null : count(part.dead), part.dead ? "bad" : null],
    ["In the outbox", part.outbox_pending == null ? null : count(part.outbox_pending)],
    ["Outbox age", part.outbox_pending ? duration(part.outbox_age) : null],
  ]);
  table($("tasks-queues"), "Queues", [
    { head: "Queue", kind: "name", text: (row) => row.queue },
    { head: "Waiting", kind: "number", text: (row) => count(row.depth) },
    { head: "Oldest", kind: "number", text: (row) => duration(row.age), tone: (row) => (row.age > 60 ? "warn" : null) },
  ], part.queues, (row) => row.queue);
  table($("tasks-names"), "Tasks by name", [
    { head: "Task", kind: "name", draw: (cell, row) => {
      writePath(nested(cell, "path"), row.task);
      write(nested(cell, "method"), row.queue);
    } },
    { head: "Done", kind: "number", text: (row) => count(row.succeeded) },
    { head: "Failed", kind: "number", text: (row) => count(row.failed), tone: (row) => (row.failed ? "bad" : null) },
    { head: "Retried", kind: "number wide", text: (row) => count(row.retried + row.requeued) },
    { head: "p95", kind: "number", text: (row) => duration(row.p95) },
    { head: "Waited", kind: "number wide", text: (row) => duration(row.wait_p95) },
  ], part.tasks, (row) => `${row.task}/${row.queue}`);
  return true;
}

function instance(data) {
  const part = data.instance;
  const memory = part.memory_used == null ? null : part.memory_limit ? `${bytes(part.memory_used)} of ${bytes(part.memory_limit)}` : bytes(part.memory_used);
  stats($("instance-stats"), [
    ["Event loop late by", part.loop_lag_mean == null ? null : duration(part.loop_lag_mean)],
    ["99 % under", part.loop_lag_p99 == null ? null : duration(part.loop_lag_p99), part.loop_lag_p99 > 0.1 ? "warn" : null],
    ["Memory", memory],
    ["CPU", part.cpu_ratio == null ? null : percent(part.cpu_ratio)],
    ["Resident", part.resident ? bytes(part.resident) : null],
  ]);
  $("instance").hidden = $("instance-stats").hidden;
  return !$("instance").hidden;
}

function advice(data) {
  const items = data.advice ?? [];
  $("advice").hidden = items.length === 0;
  each($("advice-list"), items, (one) => one.id ?? one.title ?? String(one), "li", (item, one) => {
    write(nested(item, "title"), one.title ?? String(one));
    write(nested(item, "words"), one.text ?? one.detail ?? "");
  });
  return true;
}

const SECTIONS = { MongoDB: mongo, caches, "slow queries": slow, "rate limits": limits, Redis: redis, tasks, instance, advice };

let shown = null;

function draw(data) {
  shown = data;
  write($("name"), data.title);
  alerts(data);
  numbers(data.numbers);
  verdict(data);
  write($("over"), over(data));
  traffic(data);
  routes(data);
  const silent = Object.entries(SECTIONS).filter(([, section]) => !section(data)).map(([name]) => name);
  write($("unused"), silent.length ? `Nothing yet from: ${listed(silent)}.` : "");
  $("unused").hidden = silent.length === 0;
}

// --- what is said aloud: changes only

let said = "";
function say(text) {
  if (text === said) return;
  said = text;
  write($("said"), text);
}

// --- live

const STALE_AFTER = 8000;
const live = { source: null, window: "5m", last: 0, received: null, retry: 1000, timer: 0 };

function connect() {
  clearTimeout(live.timer);
  live.source?.close();
  const source = (live.source = new EventSource(`live?window=${live.window}`));
  source.addEventListener("message", (event) => {
    if (source !== live.source) return;
    live.retry = 1000;
    arrived(JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    // A stream that merely ended is opened again by the browser; one that was refused is not.
    if (source === live.source && source.readyState === EventSource.CLOSED) later();
  });
}

function later() {
  live.timer = setTimeout(async () => {
    await ask();
    connect();
  }, live.retry);
  live.retry = Math.min(live.retry * 2, 15000);
}

async function ask() {
  try {
    const answer = await fetch(`data.json?window=${live.window}`, { cache: "no-store" });
    if (answer.status === 401 || answer.status === 403) location.reload();
    else if (answer.ok) arrived(await answer.json());
  } catch {
    // still away: what is shown grows stale, and says so
  }
}

function arrived(data) {
  live.last = performance.now();
  live.received = new Date();
  if (data.window.name !== live.window) return;
  draw(data);
  state();
}

function state() {
  const stale = live.last === 0 ? performance.now() > STALE_AFTER : performance.now() - live.last > STALE_AFTER;
  const name = stale ? "stale" : live.last === 0 ? "waiting" : "live";
  const text = { live: "Live", waiting: "Connecting", stale: live.received ? `Stale since ${clock.format(live.received)}` : "No connection" }[name];
  if ($("live").dataset.state !== name && (name === "stale" || $("live").dataset.state === "stale")) {
    say(name === "stale" ? "The figures are stale: no connection." : "The figures are live again.");
  }
  mark($("live"), "data-state", name);
  mark(document.body, "data-state", name);
  write($("live-text"), text);
}

// --- the visitor's choices

const THEMES = { auto: ["◐", "Auto"], light: ["☀", "Light"], dark: ["☾", "Dark"] };
const kept = {
  get: (name) => { try { return localStorage.getItem(`smriti_scale.${name}`); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem(`smriti_scale.${name}`, value); } catch { /* not kept, then */ } },
};

function theme(name) {
  if (name === "auto") document.documentElement.removeAttribute("data-theme");
  else document.documentElement.dataset.theme = name;
  const [sign, text] = THEMES[name];
  write($("theme-sign"), sign);
  write($("theme-text"), text);
  $("theme").setAttribute("aria-label", `Theme: ${text.toLowerCase()}`);
  $("theme").dataset.theme = name;
}

theme(Object.hasOwn(THEMES, kept.get("theme") ?? "") ? kept.get("theme") : "auto");
$("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf($("theme").dataset.theme) + 1) % names.length];
  theme(next);
  kept.set("theme", next);
});

const before = document.querySelector(`#windows input[value="${CSS.escape(kept.get("window") ?? "")}"]`);
if (before) {
  before.checked = true;
  live.window = before.value;
}
$("windows").addEventListener("change", (event) => {
  live.window = event.target.value;
  kept.set("window", live.window);
  connect();
});

addEventListener("pagehide", () => live.source?.close());
addEventListener("pageshow", (event) => { if (event.persisted) connect(); });
setInterval(state, 1000);
connect();
