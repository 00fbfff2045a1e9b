//! How a client chooses among the targets of an SRV record.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::SplitMix;

/// Priority and weight of a host's SRV record. A KMS host publishes itself with 0 and 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SrvTarget {
    /// The lowest is tried first.
    pub priority: u16,
    /// Share among those of one priority.
    pub weight: u16,
}

impl fmt::Display for SrvTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.priority, self.weight)
    }
}

/// `PRIORITY:WEIGHT`.
impl FromStr for SrvTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let problem = || format!("`{text}` is no PRIORITY:WEIGHT, both from 0 to 65535");
        let (priority, weight) = text.split_once(':').ok_or_else(problem)?;
        Ok(Self {
            priority: priority.parse().map_err(|_| problem())?,
            weight: weight.parse().map_err(|_| problem())?,
        })
    }
}

/// Chooses among targets as RFC 2782 says: within the lowest priority, at random by weight; a weight of 0 is hardly ever
/// chosen beside others, and any is as good as the other where all have it.
pub(super) fn choose(targets: &[(usize, SrvTarget)], random: &mut SplitMix) -> Option<usize> {
    let lowest = targets.iter().map(|(_, srv)| srv.priority).min()?;
    let mut first: Vec<_> = targets.iter().filter(|(_, srv)| srv.priority == lowest).collect();
    first.sort_by_key(|(_, srv)| srv.weight != 0);
    let total: u64 = first.iter().map(|(_, srv)| u64::from(srv.weight)).sum();
    if total == 0 {
        let chosen = random.below(u64::try_from(first.len()).ok()?);
        return first.get(usize::try_from(chosen).ok()?).map(|(at, _)| *at);
    }
    let (drawn, mut sum) = (random.below(total + 1), 0);
    let chosen = first.iter().find(|(_, srv)| {
        sum += u64::from(srv.weight);
        sum >= drawn
    });
    chosen.map(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(targets: &[(u16, u16)]) -> Vec<u32> {
        let listed = targets.iter().map(|(priority, weight)| SrvTarget {
            priority: *priority,
            weight: *weight,
        });
        let listed: Vec<_> = listed.enumerate().collect();
        let (mut random, mut chosen) = (SplitMix(1), vec![0; targets.len()]);
        for _ in 0..8000 {
            chosen[choose(&listed, &mut random).unwrap()] += 1;
        }
        chosen
    }

    #[test]
    fn only_the_lowest_priority_is_chosen() {
        assert_eq!(shares(&[(10, 100), (0, 0), (10, 0)]), [0, 8000, 0]);
        assert_eq!(choose(&[], &mut SplitMix(1)), None);
    }

    #[test]
    fn weights_share_the_clients_out_and_without_any_all_are_alike() {
        for (targets, expected) in [
            (&[(0, 100), (0, 300), (5, 900)][..], [2000u32, 6000, 0]),
            (&[(0, 0), (0, 0), (1, 0)], [4000, 4000, 0]),
            (&[(0, 1000), (0, 0), (0, 1000)], [4000, 0, 4000]),
        ] {
            for (share, expected) in shares(targets).into_iter().zip(expected) {
                assert!(share.abs_diff(expected) < 200, "{targets:?}: {share} for {expected}");
            }
        }
    }

    #[test]
    fn a_target_is_written_as_priority_and_weight() {
        let target: SrvTarget = "10:100".parse().unwrap();
        assert_eq!(
            (target.priority, target.weight, target.to_string().as_str()),
            (10, 100, "10:100")
        );
        for wrong in ["", "10", "10:", "a:1", "1:65536"] {
            assert!(wrong.parse::<SrvTarget>().is_err(), "{wrong}");
        }
    }
}
