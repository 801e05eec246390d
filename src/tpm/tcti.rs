//! Which TPM to talk to: TCTI strings as tpm2-tools take them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

#[cfg(feature = "swtpm")]
use tss_esapi::tcti_ldr::NetworkTPMConfig;
use tss_esapi::tcti_ldr::{DeviceConfig, TctiNameConf};

use super::TpmError;

/// The kernel's resource-managed TPM device.
const DEFAULT_DEVICE: &str = "/dev/tpmrm0";

/// A TPM command transmission interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tcti {
    /// A device node.
    Device(PathBuf),
    /// Another TCTI module with its configuration, in tpm2-tss's notation.
    #[cfg(feature = "swtpm")]
    Other {
        /// As it was written.
        text: String,
        /// The library's form of it.
        conf: TctiNameConf,
    },
}

impl Default for Tcti {
    fn default() -> Self {
        Self::Device(DEFAULT_DEVICE.into())
    }
}

impl fmt::Display for Tcti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "device:{}", path.display()),
            #[cfg(feature = "swtpm")]
            Self::Other { text, .. } => f.write_str(text),
        }
    }
}

impl FromStr for Tcti {
    type Err = TpmError;

    fn from_str(text: &str) -> Result<Self, TpmError> {
        let bad = || TpmError::BadTcti { found: text.to_owned() };
        match text.split_once(':').unwrap_or((text, "")) {
            ("device", "") => Ok(Self::default()),
            ("device", path) if Path::new(path).is_absolute() => Ok(Self::Device(path.into())),
            #[cfg(feature = "swtpm")]
            (module, config) => {
                let conf = match module {
                    // Not TctiNameConf's parser, which tries a regex for each module it knows:
                    // they cost as much time as the TPM.
                    "swtpm" => NetworkTPMConfig::from_str(config).map(TctiNameConf::Swtpm),
                    "mssim" => NetworkTPMConfig::from_str(config).map(TctiNameConf::Mssim),
                    "tabrmd" => TctiNameConf::from_str(text),
                    _ => return Err(bad()),
                };
                Ok(Self::Other { text: text.to_owned(), conf: conf.map_err(|_| bad())? })
            }
            #[cfg(not(feature = "swtpm"))]
            _ => Err(bad()),
        }
    }
}

impl Tcti {
    /// The library's form. A device is opened once here, so that its absence has a plain name.
    pub(super) fn to_conf(&self) -> Result<TctiNameConf, TpmError> {
        match self {
            Self::Device(path) => {
                if let Err(error) = std::fs::File::options().read(true).write(true).open(path) {
                    return Err(match error.kind() {
                        std::io::ErrorKind::PermissionDenied => {
                            TpmError::NotPermitted { tcti: self.to_string() }
                        }
                        _ => TpmError::Absent { tcti: self.to_string(), cause: error.to_string() },
                    });
                }
                let path = path.to_str().ok_or(TpmError::BadTcti { found: self.to_string() })?;
                // Not TctiNameConf's parser: its regexes are half of the boot binary.
                let config = DeviceConfig::from_str(path)
                    .map_err(|_| TpmError::BadTcti { found: self.to_string() })?;
                Ok(TctiNameConf::Device(config))
            }
            #[cfg(feature = "swtpm")]
            Self::Other { conf, .. } => Ok(conf.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcti_strings() {
        assert_eq!("device".parse(), Ok(Tcti::default()));
        assert_eq!("device:/dev/tpm1".parse(), Ok(Tcti::Device("/dev/tpm1".into())));
        assert!("swtpm:host=127.0.0.1,port=2321".parse::<Tcti>().is_ok());
        for bad in ["", "device:tpm0", "swtpm:port=no", "cmd:sh", "tpm2"] {
            assert_eq!(bad.parse::<Tcti>(), Err(TpmError::BadTcti { found: bad.into() }));
        }
    }
}
