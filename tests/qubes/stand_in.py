"""Starts a VM as qubesd does, with stand-ins for what the extension touches of Qubes: the decorator
and base class of qubes.ext, the exceptions, a VM with features, log, libvirt XML and QubesDB. The
events come in the order of R4.3's start(). Takes JSON, prints JSON.

stand_in.py FOLDER-OF-THE-EXTENSION VM, where VM has name, features, kernel, initrd, cmdline."""

import asyncio
import importlib
import inspect
import json
import sys
import tomllib
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
    def write(self, path, value):
        # qubesdb.h: 64 bytes with the NUL, 3072 bytes.
        value = value.encode() if isinstance(value, str) else value
        assert len(path) < 64 and len(value) <= 3072
        self[path] = value.decode()


class VM:
    def __init__(self, told):
        self.name, self.features = told["name"], told["features"]
        self.log, self.untrusted_qdb = Log(), QubesDB()
        self.told = told

    def create_config_file(self):
        system = "".join(
            "<{0}>{1}</{0}>".format(what, escape(self.told[what]))
            for what in ("kernel", "initrd", "cmdline")
        )
        return "<domain type=\"xen\"><name>{}</name><os>{}</os></domain>".format(self.name, system)


def entry_point(folder):
    with open(folder + "/pyproject.toml", "rb") as file:
        points = tomllib.load(file)["project"]["entry-points"]["qubes.ext"]
    (point,) = points.values()
    module, name = point.split(":")
    sys.path.insert(0, folder)
    sys.dont_write_bytecode = True
    return getattr(importlib.import_module(module), name)


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
    assert heard == 3


def main():
    stand_in_modules()
    vm = VM(json.loads(sys.argv[2]))
    refused = None
    try:
        asyncio.run(start(entry_point(sys.argv[1])(), vm))
    except QubesVMError as error:
        assert error.vm is vm
        refused = str(error)
    print(json.dumps({"refused": refused, "log": vm.log, "qdb": vm.untrusted_qdb}))


main()
