//! How long one licensed host may take of a client's time, and whether a host that took longer is to blame for it.

use std::time::{Duration, Instant};

/// The time that a client's request may take, over all hosts that are tried for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    whole: Duration,
    deadline: Instant,
}

/// One host's share of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub(super) from: Instant,
    pub(super) until: Instant,
    /// Whether it is about as long as the first host's would be. Otherwise the client or other hosts used up what is
    /// missing, and that it was not enough says nothing of this host.
    pub(super) full: bool,
}

impl Patience {
    /// The `whole` of it ends at `deadline`; some may have passed already.
    pub(super) fn new(whole: Duration, deadline: Instant) -> Self {
        Self { whole, deadline }
    }

    /// The share of a host that may take `most`, from `now` on.
    pub(super) fn share(&self, most: Duration, now: Instant) -> Share {
        let until = self.deadline.min(now + most);
        let first = most.min(self.whole);
        Share {
            from: now,
            until,
            full: until.saturating_duration_since(now) >= first - first / 10,
        }
    }
}

impl Share {
    pub(super) fn length(&self) -> Duration {
        self.until.saturating_duration_since(self.from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_host_is_to_blame_only_for_a_share_as_long_as_that_of_the_first() {
        let begun = Instant::now();
        for (whole, most, after, length, full) in [
            (15, 5, 0, 5, true),
            (15, 5, 10, 5, true),
            (15, 5, 12, 3, false),
            (15, 5, 15, 0, false),
            (15, 5, 20, 0, false),
            // The client has less time than a host may take: the first host gets all that there is.
            (4, 5, 0, 4, true),
            (4, 5, 1, 3, false),
        ] {
            let share =
                Patience::new(seconds(whole), begun + seconds(whole)).share(seconds(most), begun + seconds(after));
            assert_eq!((share.length(), share.full), (seconds(length), full), "{after} s after");
        }
    }
}
