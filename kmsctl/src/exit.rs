//! Exit codes: what a script can rely on.

use std::process::ExitCode;

use thiserror::Error;

/// How a command ended. The numbers are part of the command line's contract (`kmsctl --help` lists them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: what was asked for is so.
    Ok,
    /// 1: it could not be done or found out: a server away, a file unreadable, an answer that makes no sense.
    Failed,
    /// 2: the command line or a file given to it is wrong; nothing was done. (clap uses the same number.)
    Usage,
    /// 3: it was answered, and the answer is "not yet": too few clients counted, a resource or replica that is not ready, no
    /// licensed host that may be asked, or a ledger that is away.
    NotYet,
    /// 4: it was answered, and the answer is "no": a host refused the request.
    Refused,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotYet => 3,
            Exit::Refused => 4,
        })
    }
}

/// What is wrong with a command line. A command that fails with it, or for it, ends as [`Exit::Usage`].
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Misuse(pub String);

impl Exit {
    /// How a command ends that failed so.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        if error.downcast_ref::<Misuse>().is_some() {
            Self::Usage
        } else {
            Self::Failed
        }
    }

    /// The worse of two ends, for commands about several things: failed, then refused, then not yet.
    #[must_use]
    pub fn worst(self, other: Self) -> Self {
        let rank = |exit| match exit {
            Self::Ok => 0,
            Self::NotYet => 1,
            Self::Refused => 2,
            Self::Failed => 3,
            Self::Usage => 4,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn a_wrong_command_line_ends_as_such_whatever_it_was_met_in() {
        let misuse = || Misuse("no product is called `Office97`".to_owned());
        assert_eq!(Exit::of(&misuse().into()), Exit::Usage);
        assert_eq!(Exit::of(&anyhow::Error::new(misuse()).context("pc01")), Exit::Usage);
        let nothing: anyhow::Result<()> = None.with_context(misuse);
        assert_eq!(Exit::of(&nothing.unwrap_err()), Exit::Usage);
        assert_eq!(Exit::of(&anyhow!("a host is away")), Exit::Failed);
    }

    #[test]
    fn the_worst_end_of_several_wins() {
        assert_eq!(Exit::Ok.worst(Exit::NotYet), Exit::NotYet);
        assert_eq!(Exit::Refused.worst(Exit::NotYet), Exit::Refused);
        assert_eq!(Exit::Refused.worst(Exit::Failed), Exit::Failed);
        assert_eq!(Exit::Ok.worst(Exit::Ok), Exit::Ok);
    }
}
