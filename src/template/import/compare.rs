//! Whether a machine is started as its template tells.

use super::Described;
use crate::template::{Boot, Material, Template, Vm};

/// In what a machine is not started as its template tells, for people; nothing where it is.
pub fn differences(template: &Template, vm: &Vm, machine: &Described) -> Vec<String> {
    let mut found = vec![];
    match &template.boot {
        Boot::Kernel { .. } if machine.kernel.is_empty() => {
            found.push("its host gives it no kernel, though the template tells of one".to_owned());
        }
        Boot::Kernel { kernel, initrd, .. } => {
            let files = [("kernel", kernel, &machine.kernel), ("initrd", initrd, &machine.initrd)];
            for (what, told, given) in files {
                // A list of digests has no place of its own.
                if matches!(told, Material::File(path) if path.as_os_str() != given.as_str()) {
                    found.push(format!(
                        "it is given another {what} than the template tells: {given}"
                    ));
                }
            }
            if template.cmdline(&vm.cmdline) != machine.cmdline {
                found.push("it is given another command line than the template tells".to_owned());
            }
        }
        Boot::Disk { .. } | Boot::Uki { .. } if machine.kernel.is_empty() => {}
        Boot::Disk { .. } | Boot::Uki { .. } => {
            found
                .push("its host gives it a kernel, of which the template tells nothing".to_owned());
        }
    }
    let fits = |(memory, cpus): &(Option<u64>, Option<u32>)| {
        (memory.is_none() || machine.memory.is_none() || *memory == machine.memory)
            && (cpus.is_none() || machine.cpus.is_none() || *cpus == machine.cpus)
    };
    if !template.sizes(vm).iter().any(fits) {
        found.push("it has memory or processors that the template does not tell".to_owned());
    }
    found
}
