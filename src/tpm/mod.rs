//! The TPM: storage root key, sealing, unsealing, PCRs. The only room that names tss_esapi.
//!
//! Commands run in a thread of their own, so that a TPM that never answers costs a bounded time:
//! every operation ends with its result or with [`TpmError::Timeout`].

#[cfg(test)]
mod clear_test;
#[cfg(feature = "cli")]
mod elsewhere;
mod error;
mod lockout;
mod pcr;
mod satisfy;
mod seal;
mod session;
mod srk;
mod stored;
mod tcti;
mod unseal;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tss_esapi::Context;
use tss_esapi::tcti_ldr::TctiNameConf;

use crate::ffi::esys::Esys;

#[cfg(feature = "cli")]
pub use elsewhere::{SrkElsewhere, SrkFileError};
pub use error::TpmError;
pub use lockout::Lockout;
pub use srk::{PrimaryAlgorithm, SRK_HANDLE, SrkPublic, StorageKey};
pub use tcti::Tcti;

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// What the worker owns. A TPM without a resource manager serves one connection at a time, so the
/// library's own is given up while [`Esys`] has one.
struct Connection {
    context: Option<Context>,
    conf: TctiNameConf,
    /// The same in tpm2-tss's notation.
    tcti: String,
}

impl Connection {
    fn context(&mut self) -> Result<&mut Context, TpmError> {
        if self.context.is_none() {
            self.context = Some(Context::new(self.conf.clone()).map_err(|_| ended())?);
        }
        self.context.as_mut().ok_or_else(ended)
    }

    fn esys(&mut self) -> Result<Esys, TpmError> {
        self.context = None;
        Esys::open(&self.tcti).map_err(stored::during("connect"))
    }
}

/// A connection to a TPM.
pub struct Tpm {
    jobs: Option<Sender<Job>>,
    worker: Option<JoinHandle<()>>,
    timeout: Duration,
    /// When all operations together must have ended.
    deadline: std::cell::Cell<Option<Instant>>,
    /// Whether the worker is given up, not waited for: since a timeout, or before the connection.
    stuck: std::cell::Cell<bool>,
    /// Lets a test see what an unencrypted session would show on the wire.
    #[cfg(test)]
    clear_sessions: bool,
}

/// A TPM that is being connected to.
pub struct Connecting {
    tpm: Tpm,
    connection: Receiver<Result<(), TpmError>>,
}

impl Connecting {
    /// The connection.
    ///
    /// # Errors
    /// [`TpmError::Absent`] or [`TpmError::Timeout`].
    pub fn connected(self) -> Result<Tpm, TpmError> {
        self.tpm.wait(&self.connection)??;
        self.tpm.stuck.set(false);
        Ok(self.tpm)
    }
}

impl Tpm {
    /// Connects to a TPM. `timeout` bounds each operation; after the first one that takes longer
    /// nothing more is asked of this TPM.
    ///
    /// # Errors
    /// [`TpmError::Absent`], [`TpmError::NotPermitted`] or [`TpmError::Timeout`].
    pub fn connect(tcti: &Tcti, timeout: Duration) -> Result<Self, TpmError> {
        Self::begin(tcti, timeout)?.connected()
    }

    /// Begins to connect, and leaves the caller free to read a header in the meantime.
    ///
    /// # Errors
    /// [`TpmError::Absent`], [`TpmError::NotPermitted`] for a device that cannot be opened.
    pub fn begin(tcti: &Tcti, timeout: Duration) -> Result<Connecting, TpmError> {
        let conf = tcti.to_conf()?;
        let (jobs, queue) = channel::<Job>();
        let (connected, connection) = channel();
        let name = tcti.to_string();
        let worker = std::thread::spawn(move || match Context::new(conf.clone()) {
            Ok(context) => {
                let mut connection = Connection { context: Some(context), conf, tcti: name };
                if connected.send(Ok(())).is_ok() {
                    queue.into_iter().for_each(|job| job(&mut connection));
                }
            }
            Err(_) => {
                let cause = "nothing answers there as a TPM".to_owned();
                let _ = connected.send(Err(TpmError::Absent { tcti: name, cause }));
            }
        });
        let tpm = Self {
            jobs: Some(jobs),
            worker: Some(worker),
            timeout,
            deadline: std::cell::Cell::new(None),
            // Until it is connected, nothing of ours is in the TPM and nobody waits for the worker.
            stuck: std::cell::Cell::new(true),
            #[cfg(test)]
            clear_sessions: false,
        };
        Ok(Connecting { tpm, connection })
    }

    /// Bounds all operations from now on together, by the time that one may take.
    pub fn begin_bounded(&self) {
        self.deadline.set(Instant::now().checked_add(self.timeout));
    }

    /// Runs `job` on the worker, which owns the connection.
    fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Context) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        self.run_on_connection(|connection| job(connection.context()?))
    }

    /// Runs `job` on the worker, for calls that the library has no wrapper for.
    fn run_esys<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Esys) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        self.run_on_connection(|connection| job(&mut connection.esys()?))
    }

    fn run_on_connection<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Connection) -> Result<T, TpmError> + Send + 'static,
    ) -> Result<T, TpmError> {
        let (done, result) = channel();
        let job: Job = Box::new(move |connection| {
            // Nobody listens any more after a timeout.
            let _ = done.send(job(connection));
        });
        if let Some(jobs) = &self.jobs
            && !self.stuck.get()
            && jobs.send(job).is_ok()
        {
            return self.wait(&result)?;
        }
        Err(if self.stuck.get() { self.timed_out() } else { ended() })
    }

    fn wait<T>(&self, result: &Receiver<T>) -> Result<T, TpmError> {
        let left = self.deadline.get().map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(self.timeout, |left| left.min(self.timeout));
        result.recv_timeout(timeout).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                self.stuck.set(true);
                self.timed_out()
            }
            RecvTimeoutError::Disconnected => ended(),
        })
    }

    fn timed_out(&self) -> TpmError {
        TpmError::Timeout { seconds: self.timeout.as_secs() }
    }

    fn encrypts(&self) -> bool {
        #[cfg(test)]
        return !self.clear_sessions;
        #[cfg(not(test))]
        true
    }
}

fn ended() -> TpmError {
    TpmError::Response { during: "keep the connection", message: "it ended".into() }
}

impl Drop for Tpm {
    /// Waits until the worker has flushed what it left in the TPM, unless it is stuck.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(worker) = self.worker.take()
            && !self.stuck.get()
        {
            let _ = worker.join();
        }
    }
}
