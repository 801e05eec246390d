//! What the machines of a template will measure, from the files that the template names.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use vmseal::Error;
use vmseal::artifact::hashing::Memory;
use vmseal::artifact::variable_store::VariableStore;
use vmseal::artifact::{Files, Volume};
use vmseal::boot::BootLogs;
use vmseal::files::{self, ImageError, Named, NamedFile};
use vmseal::measurement::diff::Expected;
use vmseal::policy::AuthorityKey;
use vmseal::prediction::{KnownFiles, Layers, Remembered, Spelled, uki_path};
use vmseal::template::{
    Boot, Disk, Forecaster, Forecasts, Material, Sources, Template, require_unexposed,
};

/// Reads the files and forecasts; `approved` are the events that were approved last.
///
/// # Errors
/// [`Error::Artifact`] for a file that cannot be used; those of reading logs and of forecasting.
pub fn forecasts(
    template: &Template,
    key: &AuthorityKey,
    approved: &[Expected],
    memory: &Memory,
) -> Result<Forecasts, Error> {
    let logs = logs(template)?;
    let vars = template.vars.as_deref().map(variables).transpose()?;
    let (next, base): (Vec<Box<dyn Files>>, _) = match &template.boot {
        Boot::Kernel { kernel, initrd, .. } => (vec![Box::new(given(kernel, initrd)?)], None),
        Boot::Disk { disk, base, .. } => (volumes(disk)?, base.as_ref().map(volumes).transpose()?),
        Boot::Uki { image } => (vec![Box::new(started(image, &logs)?)], None),
    };
    let next = Layers(next.iter().map(AsRef::as_ref).collect());
    let next = Remembered::new(&next);
    let base = base.as_ref().map(|base| Layers(base.iter().map(AsRef::as_ref).collect()));
    let base = base.as_ref().map(|base| base as &dyn Files);
    let sources = Sources { next: &next, base, vars: vars.as_ref(), memory };
    let forecaster = Forecaster::new(template, Some(key), logs, sources)?;
    Ok(Forecasts::of(template, &forecaster, approved))
}

/// Every file and folder that the template names, and that forecasts are made from.
pub fn paths(template: &Template) -> Vec<&Path> {
    let logs = template.references.iter();
    let logs = logs.flat_map(|it| [Some(&it.log), it.userspace.as_ref()]).flatten();
    let all = template.boot.paths().into_iter().chain(logs).chain(template.vars.as_ref());
    all.map(PathBuf::as_path).collect()
}

/// The file systems of a disk. One without a file system for `/boot` may have all on the EFI system
/// partition.
fn volumes(disk: &Disk) -> Result<Vec<Box<dyn Files>>, Error> {
    let refused = |path: &Path, error: &ImageError| unusable(path, error.to_string());
    let open =
        |volume, path: &Path| files::open(volume, path).map_err(|error| refused(path, &error));
    match disk {
        Disk::Image(path) => {
            let esp = open(Volume::Esp, path)?;
            match files::open(Volume::Boot, path) {
                Ok(boot) => Ok(vec![esp, boot]),
                Err(ImageError::NoFileSystem) => Ok(vec![esp]),
                Err(error) => Err(refused(path, &error)),
            }
        }
        Disk::Volumes { esp, boot } => {
            let esp = open(Volume::Esp, esp)?;
            let boot = boot.as_ref().map(|boot| open(Volume::Boot, boot)).transpose()?;
            Ok([esp].into_iter().chain(boot).collect())
        }
    }
}

/// The image in the place of the one that the reference boots started.
fn started(image: &Path, logs: &[BootLogs]) -> Result<Named, Error> {
    File::open(image).map_err(|error| unusable(image, error.to_string()))?;
    let mut named = Named::default();
    for path in logs.iter().filter_map(|logs| uki_path(&logs.firmware)) {
        named.add(Spelled::parse(&path), NamedFile::File(image.to_owned()));
    }
    Ok(named)
}

/// The boot files that the host gives, by the names that the firmware has for them.
///
/// # Errors
/// [`Error::Artifact`], [`Error::Template`].
pub fn given(kernel: &Material, initrd: &Material) -> Result<Named, Error> {
    let mut named = Named::default();
    for (place, material) in [("kernel", kernel), ("initrd", initrd)] {
        let file = match material {
            Material::File(path) => {
                // One that is not there is told by its own name, not as an event.
                let refused = |error: std::io::Error| unusable(path, error.to_string());
                File::open(path).map_err(refused)?;
                NamedFile::File(path.clone())
            }
            Material::Digests(path) => {
                require_unexposed(path)?;
                let known = KnownFiles::parse(&read(path, KnownFiles::MAX_LEN)?);
                let known = known.map_err(|cause| unusable(path, cause))?;
                let digests = known.get(place);
                let digests = digests
                    .map_err(|there| unusable(path, format!("no {place} in it: {there}")))?;
                NamedFile::Digests(digests.clone())
            }
        };
        named.add(Spelled::parse(place), file);
    }
    Ok(named)
}

fn logs(template: &Template) -> Result<Vec<BootLogs>, Error> {
    let log = |reference: &vmseal::template::Reference| {
        let paths = [Some(&reference.log), reference.userspace.as_ref()];
        paths.into_iter().flatten().try_for_each(|path| match path.exists() {
            true => require_unexposed(path),
            // The reader of logs says so in its own words.
            false => Ok(()),
        })?;
        BootLogs::read(&reference.log, reference.userspace.as_deref())
    };
    template.references.iter().map(log).collect()
}

fn variables(path: &Path) -> Result<VariableStore, Error> {
    const MAX: usize = 64 << 20;
    if path.exists() {
        require_unexposed(path)?;
    }
    let bytes = read(path, MAX)?;
    VariableStore::parse(&bytes).map_err(|error| unusable(path, error.to_string()))
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let refused = |error: std::io::Error| unusable(path, error.to_string());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(refused)?;
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(refused)?;
    match bytes.len() > limit {
        true => Err(unusable(path, format!("more than {limit} bytes"))),
        false => Ok(bytes),
    }
}

fn unusable(path: &Path, cause: String) -> Error {
    Error::Artifact { path: PathBuf::from(path), cause }
}
