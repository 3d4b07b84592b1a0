"""Says in words why the kernel refused a world, and what to do about it."""

from __future__ import annotations

from pathlib import Path

_USERNS_SETTINGS = (
    # (sysctl, value that forbids, what to write, where from)
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),  # Ubuntu 23.10 and later
    ("kernel.unprivileged_userns_clone", "0", "1"),  # Debian's and Ubuntu's own patch
    ("user.max_user_namespaces", "0", "15000"),  # namespaces(7)
)
_LIMITS = {
    "netns": "user.max_net_namespaces",
    "mountns": "user.max_mnt_namespaces",
    "utsns": "user.max_uts_namespaces",
    "ipcns": "user.max_ipc_namespaces",
    "pidns": "user.max_pid_namespaces",
}
_AS_ROOT = "or run as root (sudo)"


def explain(step: str, error: str, text: str, about: str, root: Path = Path("/proc/sys")) -> str:
    """One sentence for the failed step of init.py: what was refused, which setting forbids it, what to write instead."""
    if step == "exec":
        return f"{about}: cannot be run inside the world: {text}"
    if step in ("userns", "idmap") or (step in _LIMITS and error == "EPERM"):
        return _no_user_namespace(step, text, root)
    if step in _LIMITS and error == "ENOSPC":
        return f"the kernel makes no more namespaces: {_LIMITS[step]} is used up; raise it: sysctl -w {_LIMITS[step]}=15000"
    if step in _LIMITS and error == "EINVAL":
        return f"this kernel was built without {step.removesuffix('ns')} namespaces (CONFIG_NAMESPACES); use a distribution's kernel"
    if step in ("proc", "sys") and error == "EPERM":
        return (
            f"the kernel refuses a private /{step} (mount: {text}): this is a container whose /{step} is partly hidden; "
            "start it with --privileged (Docker: --security-opt systempaths=unconfined), or run on the machine itself"
        )
    if error == "EPERM":
        return (
            f"the kernel refuses to mount {about}: {text}; in a container, start it with --privileged "
            "(an AppArmor or seccomp profile may forbid mount)"
        )
    return f"the world could not be opened: {step} {about}: {text}"


def _no_user_namespace(step: str, text: str, root: Path) -> str:
    for name, forbidding, allowing in _USERNS_SETTINGS:
        try:
            value = (root / name.replace(".", "/")).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if value == forbidding:
            return (
                f"{name}={value} forbids an ordinary user to open a private network; "
                f"allow it: sudo sysctl -w {name}={allowing}; {_AS_ROOT}"
            )
    return (
        f"the kernel refuses a private network to this user ({step}: {text}): a container's seccomp or AppArmor profile, or a kernel "
        f"without CONFIG_USER_NS; start the container with --privileged, {_AS_ROOT}"
    )
