//! The pure part: networks and limits.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::Refusal;
use crate::config::ClientsConfig;

/// What a connection's peer is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A client itself.
    Client,
    /// A trusted load balancer, whose connections begin with a PROXY header.
    Balancer {
        /// Whether the header may not be missing.
        header_required: bool,
    },
}

/// Networks and limits, as configured.
#[derive(Debug, Clone)]
pub struct Rules {
    allow: Vec<IpNet>,
    deny: Vec<IpNet>,
    trusted: Vec<IpNet>,
    header_required: bool,
    /// The bits of an IPv6 address that make one source.
    ipv6_mask: u128,
    /// Connections at one time.
    pub connections: usize,
    /// Connections at one time of one source.
    pub connections_per_source: u32,
    /// Requests of one source within a minute.
    pub requests_per_minute: u32,
}

impl Rules {
    /// The rules of a configuration.
    pub fn new(clients: &ClientsConfig) -> Self {
        let proxy = clients.proxy_protocol.as_ref();
        Self {
            allow: clients.allow.clone(),
            deny: clients.deny.clone(),
            trusted: proxy.map(|proxy| proxy.trusted.clone()).unwrap_or_default(),
            header_required: proxy.is_some_and(|proxy| proxy.required),
            ipv6_mask: !u128::MAX
                .checked_shr(clients.limits.ipv6_prefix.into())
                .unwrap_or_default(),
            connections: usize::try_from(clients.limits.connections).unwrap_or(usize::MAX),
            connections_per_source: clients.limits.connections_per_source,
            requests_per_minute: clients.limits.requests_per_minute_per_source,
        }
    }

    /// Who a peer is.
    pub fn peer(&self, peer: IpAddr) -> Peer {
        let peer = peer.to_canonical();
        if self.trusted.iter().any(|net| net.contains(&peer)) {
            return Peer::Balancer {
                header_required: self.header_required,
            };
        }
        Peer::Client
    }

    /// The source that an address is of: what connections, requests and, for routing, clients are counted by.
    pub fn source(&self, address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & self.ipv6_mask).into(),
            v4 => v4,
        }
    }

    /// Whether a client of this address may connect. IPv4 addresses in IPv6 form are taken as IPv4.
    pub fn permits(&self, source: IpAddr) -> Result<(), Refusal> {
        let source = source.to_canonical();
        if self.deny.iter().any(|net| net.contains(&source)) {
            return Err(Refusal::Denied);
        }
        if !self.allow.is_empty() && !self.allow.iter().any(|net| net.contains(&source)) {
            return Err(Refusal::NotAllowed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(allow: &[&str], deny: &[&str], trusted: &[&str]) -> Rules {
        let nets = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().expect("network"))
                .collect::<Vec<IpNet>>()
        };
        let mut clients = ClientsConfig {
            allow: nets(allow),
            deny: nets(deny),
            ..ClientsConfig::default()
        };
        clients.proxy_protocol = Some(crate::config::ProxyProtocolConfig {
            trusted: nets(trusted),
            required: true,
            header_timeout: crate::config::Period::seconds(5),
        });
        Rules::new(&clients)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn deny_wins_over_allow_and_an_empty_allow_is_everyone() {
        let rules_ = rules(&["10.0.0.0/8"], &["10.6.0.0/16"], &[]);
        assert_eq!(rules_.permits(ip("10.1.2.3")), Ok(()));
        assert_eq!(rules_.permits(ip("10.6.2.3")), Err(Refusal::Denied));
        assert_eq!(rules_.permits(ip("192.0.2.1")), Err(Refusal::NotAllowed));
        assert_eq!(rules_.permits(ip("2001:db8::1")), Err(Refusal::NotAllowed));
        assert_eq!(rules(&[], &[], &[]).permits(ip("2001:db8::1")), Ok(()));
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_address() {
        let rules = rules(&["10.0.0.0/8"], &["10.6.0.0/16"], &["192.0.2.0/24"]);
        assert_eq!(rules.permits(ip("::ffff:10.1.2.3")), Ok(()));
        assert_eq!(rules.permits(ip("::ffff:10.6.2.3")), Err(Refusal::Denied));
        assert_eq!(
            rules.peer(ip("::ffff:192.0.2.9")),
            Peer::Balancer { header_required: true }
        );
        assert_eq!(rules.peer(ip("10.1.2.3")), Peer::Client);
    }

    #[test]
    fn an_ipv6_subnet_is_one_source_and_an_ipv4_address_is_one_by_itself() {
        let source = |prefix, address| {
            let mut clients = ClientsConfig::default();
            clients.limits.ipv6_prefix = prefix;
            Rules::new(&clients).source(ip(address)).to_string()
        };
        for (prefix, address, expected) in [
            (64, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            (56, "2001:db8:1:2:3:4:5:6", "2001:db8:1::"),
            (32, "2001:db8:1:2:3:4:5:6", "2001:db8::"),
            (128, "2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6"),
            (64, "::ffff:10.1.2.3", "10.1.2.3"),
            (32, "10.1.2.3", "10.1.2.3"),
        ] {
            assert_eq!(source(prefix, address), expected, "{address} of {prefix} bits");
        }
    }

    proptest! {
        #[test]
        fn what_is_denied_never_passes(allow in any::<(u32, u8)>(), deny in any::<(u32, u8)>(), source in any::<u32>()) {
            let net = |(address, length): (u32, u8)| format!("{}/{}", std::net::Ipv4Addr::from(address), length % 33);
            let (allow, deny) = (net(allow), net(deny));
            let rules = rules(&[allow.as_str()], &[deny.as_str()], &[]);
            let source = IpAddr::from(std::net::Ipv4Addr::from(source));
            let denied = deny.parse::<IpNet>().expect("network").contains(&source);
            let allowed = allow.parse::<IpNet>().expect("network").contains(&source);
            let expected = if denied { Err(Refusal::Denied) } else if allowed { Ok(()) } else { Err(Refusal::NotAllowed) };
            prop_assert_eq!(rules.permits(source), expected);
        }
    }
}
