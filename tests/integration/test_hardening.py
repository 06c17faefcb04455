"""What is built defends itself: the flags of the linker and the compiler, as they can be seen in the files."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from harness.router import KAISO
from harness.wait import DEADLINE

BUILD = Path(KAISO).parent
BINARIES = ["kaiso", "libkaiso-preload.so", "src/lib/libkaiso.so"]


def run(*command):
    """A command that must succeed; what it printed."""
    result = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            timeout=DEADLINE, check=False, env={**os.environ, "LC_ALL": "C"})
    assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}{result.stderr}"
    return result.stdout


def weaknesses(binary):
    """What an attacker would like of an ELF file, as a set of words."""
    header, dynamic = run("readelf", "-hW", binary), run("readelf", "-dW", binary)
    found = set()
    segments = re.findall(r"^ +(\S+) +0x\S+ 0x\S+ 0x\S+ 0x\S+ 0x\S+ ([R ][W ][E ])", run("readelf", "-lW", binary), re.M)
    kinds = {kind: flags for kind, flags in segments}
    imported = set(re.findall(r" UND (\w+)", run("readelf", "--dyn-syms", "-W", binary)))

    assert "LOAD" in kinds, segments
    if not re.search(r"Type: +DYN", header):
        found.add("no-pie")
    if "GNU_RELRO" not in kinds:
        found.add("no-relro")
    if not re.search(r"\(FLAGS(_1)?\).*\b(BIND_NOW|NOW)\b|\(BIND_NOW\)", dynamic):
        found.add("lazy-binding")
    if "E" in kinds.get("GNU_STACK", "E"):
        found.add("executable-stack")
    if any("W" in flags and "E" in flags for kind, flags in segments if kind == "LOAD"):
        found.add("writable-code")
    if re.search(r"\((RPATH|RUNPATH)\)", dynamic):
        found.add("rpath")
    if "TEXTREL" in dynamic:
        found.add("text-relocations")
    if "__stack_chk_fail" not in imported:
        found.add("no-stack-protector")
    if not any(re.fullmatch(r"__\w+_chk", name) for name in imported):
        found.add("no-fortify")
    return found


@pytest.mark.parametrize("binary", BINARIES)
def test_what_is_built_is_hardened(binary):
    assert weaknesses(BUILD / binary) == set()


SOURCE = """
#include <stdio.h>
#include <string.h>
#ifdef WRITABLE_CODE
__asm__(".section .both, \\"awx\\"\\n.byte 0\\n.previous");
#endif
int main(int count, char **words)
{
	char line[64];
	snprintf(line, sizeof(line), "%s", words[0]);
	strcpy(line + 1, words[count - 1]);
	return puts(line);
}
"""
SOUND = (
    "-O2 -fPIE -pie -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2"
    " -Wl,-z,relro,-z,now,-z,noexecstack"
)


@pytest.fixture
def compiled(tmp_path):
    """Compiles a small program as it should be, but for the options given last."""

    def make(*options):
        source, program = tmp_path / "probe.c", tmp_path / "probe"
        source.write_text(SOURCE)
        run("cc", *SOUND.split(), *options, "-o", program, source)
        return program

    return make


def test_the_check_lets_a_sound_binary_pass(compiled):
    assert weaknesses(compiled()) == set()


@pytest.mark.parametrize("options, weakness", [
    ("-fno-pie -no-pie", "no-pie"),
    ("-Wl,-z,norelro", "no-relro"),
    ("-Wl,-z,lazy", "lazy-binding"),
    ("-Wl,-z,execstack", "executable-stack"),
    ("-DWRITABLE_CODE", "writable-code"),
    ("-Wl,-rpath,/nonexistent", "rpath"),
    ("-Wl,-rpath,/nonexistent,--disable-new-dtags", "rpath"),
    ("-fno-pie -mcmodel=large -Wl,-z,notext", "text-relocations"),
    ("-fno-stack-protector", "no-stack-protector"),
    ("-U_FORTIFY_SOURCE", "no-fortify"),
])
def test_the_check_notices_a_weak_binary(compiled, options, weakness):
    assert weakness in weaknesses(compiled(*options.split()))
