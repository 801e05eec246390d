//! Opening by a passphrase that somebody types.

use vmseal::Error;
use vmseal::boot::{OpenedBy, Unmeasured};
use vmseal::exit::Exit;
use vmseal::secret::{KeyslotPassphrase, VolumeKey};

use super::{Pass, Waiting, told};
use crate::say::{advice, say};

impl Pass<'_> {
    /// Asks for the passphrase of each volume that the TPM did not open, and opens it by the very
    /// header that was compared.
    ///
    /// # Errors
    /// Where nobody could be asked.
    pub(super) fn ask_all(&mut self) -> Result<(), Error> {
        let Some(asker) = &self.args.ask else { return Ok(()) };
        let mut outcome = Ok(());
        for mut waiting in std::mem::take(&mut self.waiting) {
            let mut tried = 0;
            while outcome.is_ok() && waiting.volume.tries.is_none_or(|tries| tried < tries) {
                let prompt = format!("Please unlock disk {}: ", waiting.volume.name);
                let answer = asker.ask(&waiting.volume, tried, &prompt);
                tried += 1;
                match answer.and_then(|mut typed| {
                    let passphrase = KeyslotPassphrase::new(std::mem::take(&mut *typed));
                    open_with(&mut waiting, &passphrase)
                }) {
                    Ok((keyslot, key)) => {
                        waiting.exit = Exit::Done;
                        self.opened_by_passphrase(&waiting, keyslot, &key);
                        break;
                    }
                    Err(error @ Error::NoPassphrase { .. }) => {
                        say(&error);
                        outcome = Err(error);
                    }
                    Err(error) => {
                        say(format_args!("{}: {error}", waiting.volume.device.display()));
                        waiting.exit = error.exit();
                        if waiting.exit == Exit::NotPinned {
                            break;
                        }
                    }
                }
            }
            let name = waiting.volume.name.clone();
            match waiting.exit {
                Exit::Done => self.outcomes.push((name, Exit::Done)),
                Exit::NotPinned => {
                    let uuid = Some(waiting.header.metadata().uuid());
                    let told = told(&waiting.volume, uuid, Exit::NotPinned, None);
                    self.report.note_volume(told);
                    say(advice(Exit::NotPinned));
                    self.outcomes.push((name, Exit::NotPinned));
                }
                _ => self.waiting.push(waiting),
            }
        }
        outcome
    }

    fn opened_by_passphrase(&mut self, waiting: &Waiting, keyslot: u32, key: &VolumeKey) {
        let (volume, uuid) = (&waiting.volume, waiting.header.metadata().uuid());
        say(format_args!("opened {} by passphrase", volume.name));
        self.report.unmeasured.push(Unmeasured::of(key, &volume.name, uuid));
        let known = self.report.volumes.iter().find(|known| known.name == volume.name);
        let cause = known.and_then(|known| known.cause.clone());
        let mut told = told(volume, Some(uuid), Exit::Done, None);
        (told.by, told.keyslot, told.cause) = (Some(OpenedBy::Passphrase), Some(keyslot), cause);
        self.report.note_volume(told);
    }
}

fn open_with(
    waiting: &mut Waiting,
    passphrase: &KeyslotPassphrase,
) -> Result<(u32, VolumeKey), Error> {
    let Waiting { volume, header, pin, .. } = waiting;
    let (keyslot, key) = header.open_any_keyslot(passphrase)?;
    pin.check_key(&key)?;
    header.activate(&volume.name, &key, volume.options)?;
    Ok((keyslot, key))
}
