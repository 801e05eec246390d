//! `vmseal authority`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `vmseal authority`
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
pub struct Authority {
    /// What to do.
    #[command(subcommand)]
    pub command: AuthorityCommand,
}

/// What can be done with the key.
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Make this machine's key, or that of a template on a host
    Init(NamedNewKey),
    /// Show the key's fingerprint, where it is, and whose it is
    Show(Key),
    /// Print the public half in PEM
    Export(Key),
    /// Put a new key in the place of the present one of this machine, or of a template on a host
    Rotate(Rotate),
}

/// Where the key is.
#[derive(Debug, Args)]
pub struct Key {
    /// Template whose machines the key approves boots of, on their host
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// The key [default: /etc/vmseal/authority.pem, of a template /etc/vmseal/authorities/NAME.pem]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
}

/// Whose a new key is.
#[derive(Debug, Args)]
pub struct NamedNewKey {
    /// Template whose machines the key is to approve boots of, on their host
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Where it goes.
    #[command(flatten)]
    pub new: NewKey,
}

/// `vmseal authority rotate`
#[derive(Debug, Args)]
pub struct Rotate {
    /// Template whose key it is, on its host: the key before goes on signing beside the new one
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Once every machine of the template is enrolled with the new key: remove the one before, and
    /// what it has signed from what is delivered
    #[arg(long, requires = "name", conflicts_with_all = ["key", "allow_unprotected"])]
    pub finish: bool,
    /// With --finish: every machine is enrolled with the new key, do not ask
    #[arg(long, requires = "finish")]
    pub yes: bool,
    /// Where it goes.
    #[command(flatten)]
    pub new: NewKey,
}

/// Where a new key goes.
#[derive(Debug, Args)]
pub struct NewKey {
    /// The key [default: /etc/vmseal/authority.pem, of a template /etc/vmseal/authorities/NAME.pem]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Write it although its file system is not known to be encrypted, or the image is a template
    #[arg(long)]
    pub allow_unprotected: bool,
}
