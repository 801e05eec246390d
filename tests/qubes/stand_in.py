"""Starts a VM as qubesd does, with stand-ins for what the extension touches of Qubes: the decorator
and base class of qubes.ext, the exceptions, a VM with features, log, libvirt XML and QubesDB. The
events come in the order of start() of R4.2 and R4.3. Takes JSON, prints JSON.

stand_in.py FOLDER-OF-MODULES VM, where VM has name, features, kernel, initrd, cmdline, virt_mode,
patience (seconds, or null), and fails (what of "xml" and "qdb" does). The extension is found by its
entry point, as qubesd finds it."""

import asyncio
import importlib.metadata
import inspect
import json
import sys
import types
from xml.sax.saxutils import escape


class QubesVMError(Exception):
    def __init__(self, vm, message):
        super().__init__(message)
        self.vm = vm


class Extension:
    pass


def handler(*events, **kwargs):
    assert set(kwargs) <= {"vm", "system"}

    def decorate(function):
        function.ha_events = events
        return function

    return decorate


def stand_in_modules():
    qubes, exc, ext = (types.ModuleType(name) for name in ("qubes", "qubes.exc", "qubes.ext"))
    exc.QubesVMError = QubesVMError
    ext.Extension, ext.handler = Extension, handler
    qubes.exc, qubes.ext = exc, ext
    sys.modules.update({"qubes": qubes, "qubes.exc": exc, "qubes.ext": ext})


class Log(list):
    def warning(self, message, *arguments):
        self.append(message % arguments)


class QubesDB(dict):
    fails = False

    def write(self, path, value):
        # qubesdb.h: 64 bytes with the NUL, 3072 bytes.
        value = value.encode() if isinstance(value, str) else value
        assert len(path) < 64 and len(value) <= 3072
        if self.fails:
            raise OSError("qubesdb.Error")
        self[path] = value.decode()


class VM:
    """Its libvirt XML is that of templates/libvirt/xen.xml, which names the kernel of an HVM nowhere."""

    def __init__(self, told):
        self.name, self.features = told["name"], told["features"]
        self.log, self.untrusted_qdb = Log(), QubesDB()
        self.virt_mode, self.kernel = told["virt_mode"], "6.12"
        self.kernel_path, self.initramfs_path = told["kernel"], told["initrd"]
        self.told = told
        self.untrusted_qdb.fails = "qdb" in told["fails"]

    def create_config_file(self):
        if "xml" in self.told["fails"]:
            raise AttributeError("no template renders")
        of_libvirt = ("cmdline",) if self.virt_mode == "hvm" else ("kernel", "initrd", "cmdline")
        system = "".join(
            "<{0}>{1}</{0}>".format(what, escape(self.told[what])) for what in of_libvirt
        )
        return "<domain type=\"xen\"><name>{}</name><os>{} </os></domain>".format(self.name, system)


def entry_point(folder):
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    (found,) = importlib.metadata.distributions(path=[folder])
    (point,) = found.entry_points.select(group="qubes.ext")
    return point.load()


async def fire(extension, vm, event, is_async, **kwargs):
    fired = 0
    for _, method in inspect.getmembers(extension, inspect.ismethod):
        if event not in getattr(method, "ha_events", ()):
            continue
        effect = method(vm, event, **kwargs)
        if inspect.isawaitable(effect):
            assert is_async, "qubesd does not wait for handlers of " + event
            await effect
        fired += 1
    return fired


async def start(extension, vm):
    heard = await fire(extension, vm, "domain-pre-start", True, start_guid=True, mem_required=None)
    heard += await fire(extension, vm, "domain-pre-spawn", True, start_guid=True)
    heard += await fire(extension, vm, "domain-qdb-create", False)
    assert heard == 2


async def beside(work, patience):
    """Does other work of qubesd meanwhile, which must never have to wait for long."""
    loop, longest = asyncio.get_running_loop(), 0
    task = asyncio.ensure_future(work)
    while not task.done():
        before = loop.time()
        await asyncio.sleep(0.01)
        longest = max(longest, loop.time() - before)
    assert not patience or longest < patience / 2, longest
    return await task


def main():
    stand_in_modules()
    told = json.loads(sys.argv[2])
    vm = VM(told)
    extension = entry_point(sys.argv[1])
    if told["patience"]:
        sys.modules[extension.__module__].PATIENCE = told["patience"]
    refused = None
    try:
        asyncio.run(beside(start(extension(), vm), told["patience"]))
    except QubesVMError as error:
        assert error.vm is vm
        refused = str(error)
    print(json.dumps({"refused": refused, "log": vm.log, "qdb": vm.untrusted_qdb}))


main()
