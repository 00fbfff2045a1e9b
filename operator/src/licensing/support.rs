//! Which Windows can host which Office, and what is to be said about old ones.
//!
//! Sources: "Configure a KMS host computer to activate volume licensed versions of Office" (minimum systems,
//! KB2757817), Microsoft's life-cycle pages (ends of support).

use super::facts::OperatingSystem;
use super::products::HostProduct;

/// What a host's system means for a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Support {
    /// Whether the product can be hosted; otherwise what is needed.
    pub unsupported: Option<String>,
    /// What to know although it works, each a sentence.
    pub notices: Vec<String>,
}

/// End of support of the systems that can host Office, by build, for servers and for clients.
const ENDED: &[(u32, bool, &str, &str)] = &[
    (7600, true, "Windows Server 2008 R2", "2020-01-14"),
    (7601, true, "Windows Server 2008 R2", "2020-01-14"),
    (7600, false, "Windows 7", "2020-01-14"),
    (7601, false, "Windows 7", "2020-01-14"),
    (9200, true, "Windows Server 2012", "2023-10-10"),
    (9200, false, "Windows 8", "2016-01-12"),
    (9600, true, "Windows Server 2012 R2", "2023-10-10"),
    (9600, false, "Windows 8.1", "2023-01-10"),
];

/// Judges a product on a system.
pub fn judge(product: &HostProduct, system: &OperatingSystem) -> Support {
    let server = system.is_server();
    let (build, _) = if server { product.server } else { product.client };
    let unsupported = (system.build < build).then(|| {
        format!(
            "{} cannot be hosted on {}: it needs {} or {}, volume editions, or later",
            product.title, system.caption, product.server.1, product.client.1
        )
    });
    let mut notices = Vec::new();
    if let Some((_, _, name, date)) = ENDED
        .iter()
        .find(|(ended, of_server, ..)| *ended == system.build && *of_server == server)
    {
        notices.push(format!(
            "support of {name} ended on {date}: move the KMS host to a supported Windows"
        ));
    }
    if (7600..=7601).contains(&system.build) && product.id.is_some() {
        notices.push(
            "this host needs the update of KB2757817 to activate Office on Windows 8 and Windows Server 2012 clients"
                .to_owned(),
        );
    }
    if !server && product.name.starts_with("Windows") {
        notices.push("a KMS host on a Windows client edition activates Windows client editions only".to_owned());
    }
    Support { unsupported, notices }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system(caption: &str, build: u32, product_type: u32) -> OperatingSystem {
        OperatingSystem {
            caption: caption.into(),
            version: String::new(),
            build,
            product_type,
        }
    }

    #[test]
    fn the_support_table_of_the_documentation() {
        // Product, build, product type, supported.
        for (product, build, kind, good) in [
            ("Office2016", 7601, 3, true),
            ("Office2016", 6003, 3, false),
            ("Office2019", 7601, 3, false),
            ("Office2019", 9200, 3, true),
            ("Office2019", 9200, 1, false),
            ("Office2019", 9600, 1, true),
            ("OfficeLTSC2021", 9600, 3, false),
            ("OfficeLTSC2021", 14_393, 2, true),
            ("OfficeLTSC2021", 10_240, 1, true),
            ("OfficeLTSC2024", 17_763, 3, false),
            ("OfficeLTSC2024", 20_348, 3, true),
            ("OfficeLTSC2024", 19_045, 1, true),
            ("WindowsServer", 26_100, 1, false),
        ] {
            let support = judge(HostProduct::named(product).unwrap(), &system("Windows X", build, kind));
            assert_eq!(
                support.unsupported.is_none(),
                good,
                "{product} on {build}/{kind}: {support:?}"
            );
        }
    }

    #[test]
    fn old_systems_come_with_notices() {
        let office = HostProduct::named("Office2016").unwrap();
        let old = judge(office, &system("Windows Server 2008 R2", 7601, 3));
        assert!(old.notices[0].contains("ended on 2020-01-14"));
        assert!(old.notices[1].contains("KB2757817"));
        assert!(judge(office, &system("Windows 8.1", 9600, 1)).notices[0].contains("2023-01-10"));
        assert!(
            judge(office, &system("Windows Server 2022", 20_348, 3))
                .notices
                .is_empty()
        );
    }
}
