//! The one error type of the library.

use std::path::{Path, PathBuf};

/// `std::result::Result` with [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong. Every message is one line and names the argument or the file, what was expected and what came.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is out of its domain: wrong shape, wrong range, not finite.
    #[error("{name}: expected {expected}, got {got}")]
    InvalidArgument {
        /// The argument as the caller knows it.
        name: String,
        /// What would have been valid.
        expected: String,
        /// What came.
        got: String,
    },
    /// The operating system refused to read or write a file.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file concerned.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file is readable but is not what it claims to be.
    #[error("{}: {reason}", path.display())]
    BadFile {
        /// The file concerned.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The work would exceed, or has exceeded, the memory available to it.
    #[error("out of memory: {what} needs {needed} bytes, {limit} are available")]
    OutOfMemory {
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        limit: u64,
        /// What they are needed for.
        what: String,
    },
    /// A numerical method did not succeed.
    #[error("numerical failure: {0}")]
    Numerical(String),
    /// The request is valid but this build or this device cannot serve it.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// No usable device.
    #[error("no device: {0}")]
    NoDevice(String),
    /// CUDA or one of its libraries failed.
    #[error("CUDA: {0}")]
    Cuda(String),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// Communication between ranks failed.
    #[error("communicator: {0}")]
    Comm(String),
}

impl Error {
    /// An [`Error::InvalidArgument`].
    pub fn invalid(name: impl Into<String>, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::InvalidArgument { name: name.into(), expected: expected.into(), got: got.to_string() }
    }

    /// An [`Error::BadFile`].
    pub fn bad_file(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::BadFile { path: path.as_ref().to_path_buf(), reason: reason.into() }
    }

    /// An [`Error::Io`].
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_path_buf(), source }
    }
}
