//! The words of a decision: the same in status, logs, metrics and `kmsctl explain-route`. They never change meaning.

use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal, $sentence:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// Every word.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word, as status, logs and metric labels show it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// What it means, for people.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// Why a client's first host is its first host.
    Reason {
        /// Where its hash puts it, and it is warm.
        Sticky = "sticky", "the client's own host by its hash, and it is warm";
        /// Its own host is away.
        FailOver = "failOver", "the client's own host is away; this is the next in its hash order";
        /// Its own host is cold and the client can warm it up.
        WarmsUp = "warmsUp",
            "the client's own host is cold; this client renews a licence from a warm host and loses nothing by a low count";
        /// Its own host is cold and it is new.
        FirstTime = "firstTime", "the client was never answered before and its own host is cold: a warm host activates it";
        /// Its own host is cold, and it was answered less than a day ago.
        AskedToday = "askedToday",
            "the client's own host is cold, and the client asked within a day, so it may hold no licence: a warm host activates it";
        /// Its own host is cold and several clients share the address.
        SharedAddress = "sharedAddress",
            "the client's own host is cold, and the address asks more often than one client would: a warm host serves all behind it";
        /// Its own host is cold, and a cold host answered it last.
        LastAnswerCold = "lastAnswerCold",
            "the client's own host is cold, and so is the host that answered last, so it may hold no licence: a warm host activates it";
        /// It asks again soon after an answer.
        RetryElsewhere = "retryElsewhere",
            "the client asks again within a day of its last answer, as it does without a licence: the next warm host may do better";
        /// No active host is in reach, a host outside the active set is warm.
        Standby = "standby", "no host of the active set is in reach: a warm host outside it answers";
        /// No host is warm.
        HighestCount = "highestCount", "no host is warm: all clients go to the one with the highest count";
        /// No counts are to be had, or none are wanted.
        PreferenceOrder = "preferenceOrder", "hosts are taken in their configured order";
        /// Only hosts of weight 0 are eligible.
        Reserve = "reserve", "no other host is eligible: one of weight 0 answers";
        /// No host may be asked.
        NoHost = "noHost", "no licensed host is eligible";
    }
}

words! {
    /// What a licensed host is to the fleet now.
    HostState {
        /// In the active set and warm.
        Active = "active", "in the active set and warm: activates everyone";
        /// In the active set and cold.
        Warming = "warming", "in the active set and cold: gets renewals only, until its count reaches the required count";
        /// Outside the active set but warm.
        Standby = "standby", "warm, but not in the active set: there are too few clients for one more host";
        /// Outside the active set and cold.
        Cold = "cold", "not in the active set: there are too few clients for one more host";
        /// Taken out for failures.
        Ejected = "ejected", "does not answer and is out of use until it does";
        /// Its host key is not activated.
        Unlicensed = "unlicensed", "its host key is not activated, so it cannot activate anyone";
        /// Carries other products than the preferred host.
        OtherProducts = "otherProducts", "carries other products than the preferred host, and sets are not mixed";
        /// Weight 0.
        Reserve = "reserve", "has weight 0: is asked only when no other host is eligible";
    }
}

impl HostState {
    /// Whether such a host may be asked.
    #[must_use]
    pub const fn is_eligible(self) -> bool {
        match self {
            Self::Active | Self::Warming | Self::Standby | Self::Cold | Self::Reserve => true,
            Self::Ejected | Self::Unlicensed | Self::OtherProducts => false,
        }
    }
}

words! {
    /// Why a host stands at its place in the order of hosts to try.
    Place {
        /// The decision's choice.
        Chosen = "chosen", "asked first";
        /// Next by the client's hash.
        NextInHashOrder = "nextInHashOrder", "next in the client's hash order";
        /// Warm, outside the active set.
        WarmStandby = "warmStandby", "warm, outside the active set";
        /// Cold: after all warm ones.
        Cold = "cold", "after the warm hosts";
        /// By count.
        LowerCount = "lowerCount", "next lower count";
        /// By the configured order.
        Preference = "preference", "next in the configured order";
        /// Weight 0.
        Reserve = "reserve", "weight 0: last of all";
    }
}

words! {
    /// How far the counts can be trusted.
    Knowledge {
        /// Read from the ledger a moment ago.
        Fresh = "fresh", "counts are read from the ledger";
        /// The ledger is away; what it said last is used.
        LastKnown = "lastKnown", "the ledger is away: counts are those read last";
        /// Nothing is known: hosts in their configured order.
        PreferenceOrder = "preferenceOrder",
            "the ledger was not read, or too long ago: hosts are taken in their configured order";
    }
}

words! {
    /// Where a host's count comes from.
    CountSource {
        /// The host itself.
        Reported = "reported", "read from the host";
        /// The relays.
        Seen = "seen", "clients that the relays saw it answer last";
    }
}

words! {
    /// How a request ended at a host.
    Ended {
        /// The host answered.
        Answered = "answered", "answered the client";
        /// It did not.
        Failed = "failed", "did not answer, so the next was asked";
        /// It was not asked.
        PassedBy = "passedBy", "was not asked: it had been ejected in the meantime";
    }
}

words! {
    /// What the number of distinct clients counts.
    ClientSource {
        /// Source addresses.
        Addresses = "addresses", "source addresses that the relays saw";
        /// Machines.
        Machines = "machines", "client machine IDs in the events that were read from licensed hosts";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_guide_explains_every_word_in_the_same_words() {
        let guide = include_str!("../../../docs/routing.md");
        let row = |word: &str, sentence: &str| format!("| `{word}` | {sentence} |\n");
        let rows = (Reason::ALL.iter().map(|word| row(word.as_str(), word.sentence())))
            .chain(HostState::ALL.iter().map(|word| row(word.as_str(), word.sentence())))
            .chain(Place::ALL.iter().map(|word| row(word.as_str(), word.sentence())))
            .chain(Knowledge::ALL.iter().map(|word| row(word.as_str(), word.sentence())))
            .chain(CountSource::ALL.iter().map(|word| row(word.as_str(), word.sentence())))
            .chain(Ended::ALL.iter().map(|word| row(word.as_str(), word.sentence())))
            .chain(ClientSource::ALL.iter().map(|word| row(word.as_str(), word.sentence())));
        for row in rows {
            assert!(guide.contains(&row), "docs/routing.md lacks {row}");
        }
    }
}
