//! Exit codes: what a script can rely on.

use std::process::ExitCode;

/// How a command ended. The numbers are part of the command line's contract (`kmsctl help exit-codes` lists them).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: what was asked for is so.
    Ok,
    /// 1: it could not be done or found out: a server away, a file unreadable, an answer that makes no sense.
    Failed,
    /// 2: the command line or a file given to it is wrong; nothing was done. (clap uses the same number.)
    Usage,
    /// 3: it was answered, and the answer is "not yet": too few clients counted, or a resource that is not ready.
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

impl Exit {
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
    use super::*;

    #[test]
    fn the_worst_end_of_several_wins() {
        assert_eq!(Exit::Ok.worst(Exit::NotYet), Exit::NotYet);
        assert_eq!(Exit::Refused.worst(Exit::NotYet), Exit::Refused);
        assert_eq!(Exit::Refused.worst(Exit::Failed), Exit::Failed);
        assert_eq!(Exit::Ok.worst(Exit::Ok), Exit::Ok);
    }
}
