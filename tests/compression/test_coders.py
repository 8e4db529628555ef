"""The codings themselves: what they write, every decoder reads back, with padding and in pieces."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from hypothesis import given, strategies as st

from smriti_scale.compression.coders import ENCODINGS, make_coders
from smriti_scale.errors import MissingExtraError
from tests.http_asgi import decode


@pytest.mark.parametrize("name", ENCODINGS)
@pytest.mark.parametrize("padding", [0, 1, 255])
def test_what_is_coded_is_read_back(name: str, padding: int) -> None:
    coder = make_coders([name], zstd_level=3, br_quality=4, gzip_level=4, padding=padding)[name]

    @given(st.lists(st.binary(max_size=2000), min_size=1, max_size=6), st.booleans())
    def round_trip(pieces: list[bytes], small: bool) -> None:
        whole = b"".join(pieces)
        assert decode(coder.encode(whole), name) == whole
        stream = coder.stream(small=small)
        coded = b"".join(stream.write(piece) for piece in pieces[:-1]) + stream.finish(pieces[-1])
        assert decode(coded, name) == whole

    round_trip()


@pytest.mark.parametrize("name", ENCODINGS)
def test_padding_makes_the_length_of_one_body_vary(name: str) -> None:
    coder = make_coders([name], zstd_level=3, br_quality=4, gzip_level=4, padding=64)[name]
    plain = make_coders([name], zstd_level=3, br_quality=4, gzip_level=4, padding=0)[name]
    lengths = {len(coder.encode(b"secret" * 300)) for _ in range(200)}
    assert len(lengths) > 20
    assert max(lengths) - min(lengths) < 64
    assert len({len(plain.encode(b"secret" * 300)) for _ in range(10)}) == 1


@pytest.mark.parametrize(("package", "name"), [("brotli", "br"), ("zstandard", "zstd")])
def test_a_missing_package_is_not_offered_and_naming_it_says_how_to_install_it(package: str, name: str) -> None:
    program = f"""
        import sys
        sys.modules[{package!r}] = None
        from smriti_scale.compression.coders import make_coders
        from smriti_scale.errors import MissingExtraError
        options = dict(zstd_level=3, br_quality=4, gzip_level=4, padding=0)
        print(*make_coders(None, **options))
        try:
            make_coders([{name!r}], **options)
        except MissingExtraError as error:
            print(error)
    """
    ran = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    offered, told = ran.stdout.splitlines()
    assert offered.split() == [coding for coding in ENCODINGS if coding != name]
    assert "pip install 'smriti_scale[compression]'" in told
    assert issubclass(MissingExtraError, ImportError)
