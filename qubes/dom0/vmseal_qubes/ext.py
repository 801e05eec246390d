"""The extension of qubesd: whether a VM that starts is covered by what was approved, and how it gets
the signatures.

Features of a VM, which dom0 alone sets (those of its TemplateVM do not count: a TemplateVM asks for
some of its own by qubes.FeaturesRequest):

vmseal-template  the vmseal template that has this VM; without it nothing is done
vmseal-refuse    a VM that is not covered is not started, where this is anything but empty; else it
                 starts, and stands at its prompt
"""

import asyncio
import json
import xml.etree.ElementTree

import qubes.exc
import qubes.ext

TEMPLATE = "vmseal-template"
REFUSE = "vmseal-refuse"
QDB_PATH = "/vm-config/vmseal-policy"
# QDB_MAX_DATA
QDB_LIMIT = 3072
PATIENCE = 60


class VmsealExtension(qubes.ext.Extension):
    """Looks at a VM before it starts, and hands it its signatures."""

    def __init__(self):
        super().__init__()
        # By the VM's name: the file that it is to be given.
        self.files = {}

    # The last event before the VM is made: what it is made of does not change any more.
    @qubes.ext.handler("domain-pre-spawn")
    async def on_domain_pre_spawn(self, vm, event, **kwargs):
        """Refuses a VM that is not covered, or says so."""
        # pylint: disable=unused-argument
        self.files.pop(vm.name, None)
        template = vm.features.get(TEMPLATE, "")
        if not template:
            return
        try:
            open_points = await self._look_at(vm, str(template))
        except Exception as error:  # pylint: disable=broad-except
            # Whatever it is, a VM that must not be refused is to start.
            open_points = ["it cannot be told: " + (str(error) or type(error).__name__)]
        if not open_points:
            return
        why = "vmseal: not covered by what was approved: " + "; ".join(open_points)
        if vm.features.get(REFUSE, ""):
            raise qubes.exc.QubesVMError(vm, why)
        vm.log.warning("%s", why)

    @qubes.ext.handler("domain-qdb-create")
    def on_domain_qdb_create(self, vm, event):
        """Writes the signatures where the VM looks for them."""
        # pylint: disable=unused-argument
        path = self.files.pop(vm.name, None)
        if path is None:
            return
        try:
            with open(path, encoding="ascii") as file:
                # qubesdb-read would write the end of the line as \x0a, which is no JSON.
                text = file.read(QDB_LIMIT + 2).rstrip("\n")
            if len(text) > QDB_LIMIT:
                raise ValueError("too long for QubesDB")
            vm.untrusted_qdb.write(QDB_PATH, text)
        except Exception as error:  # pylint: disable=broad-except
            # Raised, it would kill the VM, which stands at its prompt without.
            vm.log.warning("vmseal: cannot hand over %s: %s", path, error)

    async def _look_at(self, vm, template):
        """Why the VM is not covered; notes which file it is to be given."""
        found, said = await _check(template, vm.name)
        if found.get("faults"):
            return [str(fault) for fault in found["faults"]]
        for machine in found.get("machines", []):
            if machine["name"] == vm.name:
                self.files[vm.name] = machine["file"]
                return [str(why) for why in machine["why"]] + _differences(vm, machine)
        return [said or "template {} has no such VM".format(template)]


async def _check(template, name):
    """What vmseal finds of a VM of a template: an object, and what it said. qubesd goes on
    meanwhile."""
    # A name of a VM begins with a letter; that of a template is vmseal's to judge.
    process = await asyncio.create_subprocess_exec(
        "vmseal", "template", "check", "--json", "--vm", name, "--", template,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), PATIENCE)
    except asyncio.TimeoutError:
        raise TimeoutError("vmseal did not end in {} seconds".format(PATIENCE)) from None
    finally:
        # Also where the start was called off.
        if process.returncode is None:
            process.kill()
            await process.wait()
    said = err.decode("ascii", "replace").strip().split("\n")[0]
    templates = json.loads(out)["templates"] if out else []
    return (templates[0] if templates else {}), said


def _differences(vm, machine):
    """In what dom0 is about to start the VM otherwise than its template tells. The end of the command
    line may be what its TemplateVM asked for (boot-mode.kernelopts.*): it is not trusted."""
    given = _given(vm)
    names = {"cmdline": "command line"}
    return [
        "another {} than the template tells".format(names.get(what, what))
        for what in ("kernel", "initrd", "cmdline")
        if machine[what] is not None and machine[what] != given[what]
    ]


def _given(vm):
    """Kernel, initrd and command line, as libvirt is about to be told."""
    domain = xml.etree.ElementTree.fromstring(vm.create_config_file())
    given = {
        what: domain.findtext("os/" + what, default="")
        for what in ("kernel", "initrd", "cmdline")
    }
    if vm.virt_mode == "hvm" and vm.kernel:
        # Its device model starts the copies in modules.img, which libvirt is not told of.
        given["kernel"], given["initrd"] = vm.kernel_path, vm.initramfs_path or ""
    # Two spaces are one to nobody: dom0 writes some at the ends.
    given["cmdline"] = given["cmdline"].strip()
    return given
