//! From the spec, the status and what they refer to, to zones that can be published. Pure but for the making of clients,
//! which connect only when they are used.

use std::sync::Arc;

use wsman::client::{Client, Limits};

use super::settings::{PublisherInput, ZoneInput};
use crate::api::status::{PublishedBy, ZoneStatus};
use crate::api::{DnsSpec, OfficeKmsHost, Rfc2136Publisher, TsigAlgorithm, WindowsDnsPublisher, ZoneSpec};
use crate::dns_windows::WindowsDns;
use crate::licensing::journal::mark;
use crate::reach::{Problem, Reach};
use crate::secrets::{Names, Objects};

/// Says of the mark of an account whether it must not be tried now, and why.
pub type HeldBack<'a> = dyn Fn(&str) -> Option<String> + Sync + 'a;

/// What zones refer to: those of the spec, and those where records of ours may still stand.
#[must_use]
pub fn names(dns: Option<&DnsSpec>, rows: &[ZoneStatus]) -> Names {
    let mut names = Names::default();
    let zones = dns.iter().flat_map(|dns| &dns.zones);
    let of_zones = zones.map(|zone| (zone.rfc2136.as_ref(), zone.windows_dns.as_ref()));
    let places = rows.iter().flat_map(|row| &row.published_by);
    let of_places = places.map(|place| (place.rfc2136.as_ref(), place.windows_dns.as_ref()));
    for (rfc2136, windows) in of_zones.chain(of_places) {
        if let Some(publisher) = rfc2136 {
            names.secret(&publisher.tsig.secret.name);
        }
        if let Some(publisher) = windows {
            Reach::to_dns(publisher).names(&mut names);
        }
    }
    names
}

/// What our records are marked with: what the spec says, or the UID, which no other cluster's resource has.
#[must_use]
pub fn owner(host: &OfficeKmsHost) -> String {
    let given = host.spec.dns.as_ref().and_then(|dns| dns.owner.clone());
    given
        .or_else(|| host.metadata.uid.clone())
        .unwrap_or_else(|| "local".to_owned())
}

/// A zone of the spec.
#[must_use]
pub fn zone(zone: &ZoneSpec, objects: &Objects, held_back: &HeldBack<'_>) -> ZoneInput {
    ZoneInput {
        name: zone.name.clone(),
        target: zone.target.clone(),
        addresses: zone.addresses.clone(),
        ttl: zone.ttl,
        priority: zone.priority,
        weight: zone.weight,
        remove_foreign: zone.remove_foreign.clone(),
        verify_servers: zone.verify_servers.clone(),
        publisher: match (&zone.rfc2136, &zone.windows_dns, &zone.dns_endpoint) {
            (Some(publisher), ..) => rfc2136(publisher, objects),
            (None, Some(publisher), _) => windows(publisher, objects, held_back),
            (None, None, Some(publisher)) => PublisherInput::DnsEndpoint {
                labels: publisher.labels.clone(),
            },
            (None, None, None) => PublisherInput::Manual,
        },
    }
}

/// A zone in which only what is ours is to go; none when nothing can stand through such a publisher.
#[must_use]
pub fn leftover(zone: &str, place: &PublishedBy, objects: &Objects, held_back: &HeldBack<'_>) -> Option<ZoneInput> {
    let publisher = match (&place.rfc2136, &place.windows_dns) {
        (Some(publisher), _) => rfc2136(publisher, objects),
        (None, Some(publisher)) => windows(publisher, objects, held_back),
        (None, None) => return None,
    };
    Some(ZoneInput {
        name: zone.to_owned(),
        target: None,
        addresses: Vec::new(),
        ttl: 60,
        priority: 0,
        weight: 0,
        remove_foreign: Vec::new(),
        verify_servers: Vec::new(),
        publisher,
    })
}

/// Through what a zone's records are published, where they stand outside of the cluster.
#[must_use]
pub fn place(zone: &ZoneSpec, owner: &str) -> Option<PublishedBy> {
    (zone.rfc2136.is_some() || zone.windows_dns.is_some()).then(|| PublishedBy {
        owner: owner.to_owned(),
        rfc2136: zone.rfc2136.clone(),
        windows_dns: zone.windows_dns.clone(),
        left_since: None,
        published: false,
    })
}

/// Whether what was published through one is seen, and so replaced, through the other.
#[must_use]
pub fn same_place(zone: &str, left: &PublishedBy, right: &PublishedBy) -> bool {
    let rfc2136 = |place: &PublishedBy| {
        place
            .rfc2136
            .as_ref()
            .map(|publisher| apex(zone, publisher.zone.as_ref()))
    };
    let windows = |place: &PublishedBy| {
        let publisher = place.windows_dns.as_ref()?;
        Some((publisher.server.clone(), apex(zone, publisher.zone.as_ref())))
    };
    let shares_server = match (&left.rfc2136, &right.rfc2136) {
        (Some(left), Some(right)) => left.servers.iter().any(|server| right.servers.contains(server)),
        _ => true,
    };
    left.owner == right.owner && rfc2136(left) == rfc2136(right) && windows(left) == windows(right) && shares_server
}

fn apex(zone: &str, apex: Option<&String>) -> String {
    apex.map_or(zone, String::as_str)
        .trim_end_matches('.')
        .to_ascii_lowercase()
}

/// The mark of the account of a zone at a Windows DNS server, by which a refused one is recognised.
#[must_use]
pub fn account_mark(publisher: &WindowsDnsPublisher, objects: &Objects) -> Option<String> {
    use secrecy::ExposeSecret as _;
    let (endpoint, credentials) = Reach::to_dns(publisher).resolve(objects).ok()?;
    let endpoint = format!("{}:{}", endpoint.host, endpoint.port);
    Some(mark(&[
        &endpoint,
        &credentials.user,
        credentials.password.expose_secret(),
    ]))
}

fn rfc2136(publisher: &Rfc2136Publisher, objects: &Objects) -> PublisherInput {
    PublisherInput::Rfc2136 {
        servers: publisher.servers.clone(),
        zone: publisher.zone.clone(),
        key_name: publisher.tsig.key_name.clone(),
        algorithm: algorithm(publisher.tsig.algorithm).to_owned(),
        secret: objects.text(&publisher.tsig.secret),
    }
}

fn algorithm(algorithm: TsigAlgorithm) -> &'static str {
    match algorithm {
        TsigAlgorithm::HmacSha256 => "hmac-sha256",
        TsigAlgorithm::HmacSha384 => "hmac-sha384",
        TsigAlgorithm::HmacSha512 => "hmac-sha512",
    }
}

fn windows(publisher: &WindowsDnsPublisher, objects: &Objects, held_back: &HeldBack<'_>) -> PublisherInput {
    let made = || -> Result<Arc<WindowsDns>, Vec<Problem>> {
        let (endpoint, credentials) = Reach::to_dns(publisher).resolve(objects)?;
        let refused = account_mark(publisher, objects).and_then(|mark| held_back(&mark));
        if let Some(message) = refused {
            return Err(vec![Problem {
                field: "credentialsSecret",
                message,
            }]);
        }
        let client = Client::new(endpoint, credentials, Limits::default()).map_err(|error| {
            vec![Problem {
                field: "server",
                message: error.to_string(),
            }]
        })?;
        Ok(Arc::new(WindowsDns::new(client)))
    };
    PublisherInput::WindowsDns {
        zone: publisher.zone.clone(),
        publisher: made(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::settings::{ZonePublisher, check};
    use crate::secrets::tests::secrets;

    const MANIFEST: &str = "
apiVersion: officekms.io/v1alpha1
kind: OfficeKmsHost
metadata: {name: kms, uid: 0b9c2a4e-0000-0000-0000-000000000001}
spec:
  rehearsal: {}
  dns:
    zones:
      - name: a.example
        rfc2136:
          servers: [192.0.2.53]
          tsig: {keyName: officekms, secret: {name: tsig, key: secret}}
      - name: b.example
        windowsDns: {server: dc1.b.example, credentialsSecret: {name: account}}
      - name: c.example
        dnsEndpoint: {labels: {team: kms}}
      - name: d.example
        manual: {}
";

    fn host() -> OfficeKmsHost {
        serde_saphyr::from_str(MANIFEST).unwrap()
    }

    fn free(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn each_publisher_is_made_of_what_the_spec_refers_to() {
        let host = host();
        let dns = host.spec.dns.as_ref().unwrap();
        let named: Vec<String> = names(Some(dns), &[]).secrets.into_iter().collect();
        assert_eq!(named, ["account", "tsig"]);
        let objects = secrets(&[
            ("tsig", "secret", "c2VjcmV0"),
            ("account", "username", "admin"),
            ("account", "password", "pw"),
        ]);
        let kinds: Vec<&str> = (0..)
            .zip(&dns.zones)
            .map(|(index, spec)| check(index, &zone(spec, &objects, &free)).unwrap().publisher.kind())
            .collect();
        assert_eq!(kinds, ["rfc2136", "windowsDns", "dnsEndpoint", "manual"]);
        assert_eq!(owner(&host), "0b9c2a4e-0000-0000-0000-000000000001");
    }

    #[test]
    fn what_is_missing_is_named_by_its_field() {
        let host = host();
        let dns = host.spec.dns.as_ref().unwrap();
        let told: Vec<String> = (0..)
            .zip(&dns.zones)
            .filter_map(|(index, spec)| check(index, &zone(spec, &Objects::default(), &free)).err())
            .flatten()
            .map(|problem| problem.path)
            .collect();
        assert_eq!(
            told,
            [
                "spec.dns.zones[0].rfc2136.tsig.secret.name",
                "spec.dns.zones[1].windowsDns.credentialsSecret"
            ]
        );
    }

    #[test]
    fn a_refused_account_is_held_back() {
        let host = host();
        let windows = &host.spec.dns.as_ref().unwrap().zones[1];
        let objects = secrets(&[("account", "username", "admin"), ("account", "password", "pw")]);
        let refused = account_mark(windows.windows_dns.as_ref().unwrap(), &objects).unwrap();
        let held = |mark: &str| (mark == refused).then(|| "it was refused".to_owned());
        let problems = check(1, &zone(windows, &objects, &held)).unwrap_err();
        assert_eq!(problems[0].message, "it was refused");
    }

    #[test]
    fn a_place_is_the_same_as_long_as_a_server_is_shared() {
        let host = host();
        let spec = &host.spec.dns.as_ref().unwrap().zones[0];
        let old = place(spec, "me").unwrap();
        let with = |change: &dyn Fn(&mut Rfc2136Publisher)| {
            let mut spec = spec.clone();
            change(spec.rfc2136.as_mut().unwrap());
            same_place("a.example", &old, &place(&spec, "me").unwrap())
        };
        assert!(with(&|publisher| publisher.servers.push("192.0.2.54".into())));
        assert!(with(&|publisher| publisher.tsig.key_name = "other".into()));
        assert!(with(&|publisher| publisher.zone = Some("A.example.".into())));
        assert!(!with(&|publisher| publisher.servers = vec!["192.0.2.54".into()]));
        assert!(!with(&|publisher| publisher.zone = Some("example".into())));
        assert!(!same_place("a.example", &old, &place(spec, "other").unwrap()));
        let left = leftover("a.example", &old, &secrets(&[("tsig", "secret", "c2VjcmV0")]), &free).unwrap();
        assert!(matches!(
            check(0, &left).unwrap().publisher,
            ZonePublisher::Rfc2136 { .. }
        ));
    }
}
