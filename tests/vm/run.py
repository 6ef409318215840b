"""Cameras of the Linux kernel, for a machine that has none: Debian's own kernel in a virtual machine, the wheel inside.

    python tests/vm/run.py --out benchmarks/results/v4l2_vivid.json

The kernel's package is downloaded and unpacked, not installed. The guest sees this machine's root filesystem read-only
below a layer of memory, has no network, and writes into one folder. What runs in it is `guest.py`, with the wheel of this
checkout and the device's extras in a virtual environment of its own.

It needs: apt install qemu-system-x86 busybox-static cpio kmod gcc
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[1]
SIZES = ((320, 180), (640, 360), (1280, 720))
"""Of the virtual cameras, for which there are engines."""

BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "configfs")
PROGRAMS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
}
MEMORY_MIB = 3072
KVM_TRY_S = 20.0
LONGEST_S = 1800.0


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command prints; its errors go to the terminal."""
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


def get_kernel(work: Path) -> tuple[Path, str, str]:
    """Download and unpack Debian's kernel once.

    Returns:
        (the folder it is unpacked in, its release, its package and version).
    """
    depends = run("apt-cache", "depends", "linux-image-amd64")
    package = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    folder = work / package
    if not folder.exists():
        archive = next(work.glob(f"{package}_*.deb"), None)
        if archive is None:
            run("apt-get", "download", package, cwd=work)
            archive = next(work.glob(f"{package}_*.deb"))
        run("dpkg-deb", "-x", archive, folder)
    release = next((folder / "lib/modules").iterdir()).name
    if not (folder / "lib/modules" / release / "modules.dep").exists():
        run("depmod", "-b", folder, release)
    version = next(work.glob(f"{package}_*.deb")).name.removesuffix(".deb").replace("_", " ")
    return folder, release, version


def make_initramfs(work: Path, kernel: Path, release: str) -> Path:
    """A filesystem that mounts the host's."""
    root = work / "initramfs"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "proc", "sys", "dev", "host", "layer", "new", "modules"):
        (root / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy(busybox, root / "bin/busybox")
    shutil.copy(HERE / "init.sh", root / "init")
    (root / "init").chmod(0o755)
    order: list[str] = []
    for module in BOOT_MODULES:
        for line in run("modprobe", "-d", kernel, "-S", release, "--show-depends", module).splitlines():
            path = line.split()[1] if line.startswith("insmod") else ""
            if path and Path(path).name not in order:
                order.append(Path(path).name)
                shutil.copy(path, root / "modules")
    (root / "modules/order").write_text("".join(f"{name}\n" for name in order))
    names = "\n".join(str(path.relative_to(root)) for path in [root, *sorted(root.rglob("*"))])
    image = work / "initramfs.cpio"
    with image.open("wb") as file:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet"], input=names.encode(), stdout=file, cwd=root, check=True
        )
    return image


def install_wheel(work: Path) -> Path:
    """Build the wheel, and install it with the device's extras; the environment's Python."""
    wheels = work / "wheel"
    shutil.rmtree(wheels, ignore_errors=True)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", wheels, CHECKOUT)
    wheel = next(wheels.glob("agp_edge-*.whl"))
    environment = work / "device"
    python = environment / "bin/python"
    if not python.exists():
        venv.create(environment, with_pip=True)
        extras = f"{wheel}[camera,onnxruntime,gpio]"
        run(python, "-m", "pip", "install", "-q", "-c", CHECKOUT / "constraints.txt", extras)
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel)
    return python


def build_engines(folder: Path) -> None:
    """Engines of the tests' graph, which calls bright places anomalous: `WIDTHxHEIGHT/….engine`."""
    sys.path.insert(0, str(CHECKOUT))
    from agp_edge.frame import FrameSpec
    from tests.conftest import TINY_NORMAL_SCORES, build_engine, write_brightness_model

    for width, height in SIZES:
        place = folder / f"{width}x{height}"
        if place.exists():
            continue
        place.mkdir(parents=True)
        frame = FrameSpec(width=width, height=height, channels=3)
        build_engine(write_brightness_model(place / "model.fp32.onnx", frame), frame, TINY_NORMAL_SCORES)


def qemu(
    accelerator: str, kernel: Path, release: str, image: Path, results: Path, options: dict[str, str]
) -> list[str]:
    """The command that starts the machine; its console is its output."""
    append = "console=ttyS0 quiet panic=-1 " + " ".join(f"{key}={value}" for key, value in options.items())
    # This processor feature is refused by some hosts that are virtual machines themselves.
    processor = "host,-arch-capabilities" if accelerator == "kvm" else "max"
    return [
        "qemu-system-x86_64", "-machine", f"q35,accel={accelerator}", "-cpu", processor, "-smp", "2",
        "-m", str(MEMORY_MIB), "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio",
        "-kernel", str(kernel / f"boot/vmlinuz-{release}"), "-initrd", str(image), "-append", append,
        "-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
        "-virtfs", f"local,path={results},mount_tag=results,security_model=none",
    ]  # fmt: skip


def boot(command: list[str], until_up_s: float | None) -> bool:
    """Run the machine to its end, its console shown; False if it is not up in time."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    killed_after_s = until_up_s or LONGEST_S
    up = False
    timer = threading.Timer(killed_after_s, process.kill)
    timer.start()
    try:
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip()
            if not up and "the guest is up" in line:
                up = True
                timer.cancel()
                timer = threading.Timer(LONGEST_S, process.kill)
                timer.start()
            print(f"| {line}", flush=True)
        process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        process.stdout.close()
    return up


def main() -> int:
    """Make the machine, run it, and write what it found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the result goes; none: it is only printed")
    parser.add_argument(
        "--work", type=Path, default=Path.home() / ".cache/agp-edge-vm", help="what is kept between runs"
    )
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    parser.add_argument("--only", nargs="*", default=[], help="names of checks, or what they begin with")
    args = parser.parse_args()
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    if missing:
        sys.exit(f"apt install {' '.join(missing)}")
    work: Path = args.work.resolve()
    results = work / "results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    kernel, release, package = get_kernel(work)
    image = make_initramfs(work, kernel, release)
    python = install_wheel(work)
    build_engines(work / "engines")
    options = {
        "vm_modules": str(kernel / "lib/modules"),
        "vm_python": str(python),
        "vm_script": str(HERE / "guest.py"),
        "vm_engines": str(work / "engines"),
        "vm_only": ",".join(args.only),
    }
    accelerators = {"kvm": ["kvm"], "tcg": ["tcg"], "auto": ["kvm", "tcg"]}[args.accel]
    used, failed_to_boot = "", []
    for accelerator in accelerators:
        if accelerator == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
            print("no /dev/kvm that may be used")
            continue
        print(f"booting with {accelerator}", flush=True)
        command = qemu(accelerator, kernel, release, image, results, options)
        if boot(command, KVM_TRY_S if accelerator == "kvm" else None):
            used = accelerator
            break
        print(f"{accelerator} did not bring the guest up", flush=True)
        failed_to_boot.append(accelerator)
    found = results / "result.json"
    if not found.exists():
        sys.exit("the guest wrote no result")
    result: dict[str, Any] = {
        "date": datetime.datetime.now(tz=datetime.timezone.utc).date().isoformat(),
        "host": {
            "qemu": run("qemu-system-x86_64", "--version").splitlines()[0],
            "accelerator": used,
            "accelerators_that_did_not_boot": failed_to_boot,
            "kernel_package": package,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        },
        **json.loads(found.read_text()),
    }
    failed = [check["name"] for check in result["checks"] if not check["ok"]]
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(result['checks'])} checks, {len(failed)} failed: {', '.join(failed) or 'none'}")
    return 1 if failed or not result["complete"] else 0


if __name__ == "__main__":
    sys.exit(main())
