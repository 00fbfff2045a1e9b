//! Products with a KMS host licence, and what each needs of its host.
//!
//! Source: "Configure a KMS host computer to activate volume licensed versions of Office".

use uuid::{Uuid, uuid};

/// Application ID of Windows.
pub const WINDOWS: Uuid = uuid!("55c92734-d682-4d71-983e-d6ec3f16059f");

/// The client SKU that a Microsoft page once printed as the host SKU of Office LTSC 2024 ("Tools to manage volume
/// activation of Office", text of October 2024).
pub const LTSC_2024_CLIENT: Uuid = uuid!("8d368fc1-9470-4be2-8d66-90e836cbb051");

/// A product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostProduct {
    /// Its name in manifests.
    pub name: &'static str,
    /// Its name for people.
    pub title: &'static str,
    /// Activation ID of the host licence; none for Windows, where it depends on the host's edition.
    pub id: Option<Uuid>,
    /// N, the count that clients require.
    pub required: u32,
    /// Oldest server build that can host it, and its name.
    pub server: (u32, &'static str),
    /// Oldest client build that can host it, and its name.
    pub client: (u32, &'static str),
    /// Number of its Volume License Pack in Microsoft's Download Center; none for Windows, which needs none.
    pub pack: Option<u32>,
}

/// All of them.
pub static PRODUCTS: &[HostProduct] = &[
    HostProduct {
        name: "Office2016",
        title: "Office 2016",
        id: Some(uuid!("98ebfe73-2084-4c97-932c-c0cd1643bea7")),
        required: 5,
        server: (7600, "Windows Server 2008 R2"),
        client: (7601, "Windows 7 SP1"),
        pack: Some(49_164),
    },
    HostProduct {
        name: "Office2019",
        title: "Office 2019",
        id: Some(uuid!("70512334-47b4-44db-a233-be5ea33b914c")),
        required: 5,
        server: (9200, "Windows Server 2012"),
        client: (9600, "Windows 8.1"),
        pack: Some(57_342),
    },
    HostProduct {
        name: "OfficeLTSC2021",
        title: "Office LTSC 2021",
        id: Some(uuid!("47f3b983-7c53-4d45-abc6-bcd91e2dd90a")),
        required: 5,
        server: (14_393, "Windows Server 2016"),
        client: (10_240, "Windows 10"),
        pack: Some(103_446),
    },
    HostProduct {
        name: "OfficeLTSC2024",
        title: "Office LTSC 2024",
        id: Some(uuid!("f3d89bbf-c0ec-47ce-a8fa-e5a5f97e447f")),
        required: 5,
        server: (20_348, "Windows Server 2022"),
        client: (10_240, "Windows 10"),
        pack: Some(106_246),
    },
    HostProduct {
        name: "Windows",
        title: "Windows",
        id: None,
        required: 25,
        server: (7600, "Windows Server 2008 R2"),
        client: (7600, "Windows 7"),
        pack: None,
    },
    HostProduct {
        name: "WindowsServer",
        title: "Windows Server",
        id: None,
        required: 5,
        server: (7600, "Windows Server 2008 R2"),
        client: (u32::MAX, "no client edition"),
        pack: None,
    },
];

impl HostProduct {
    /// The product of this name in manifests.
    pub fn named(name: &str) -> Option<&'static Self> {
        PRODUCTS.iter().find(|product| product.name.eq_ignore_ascii_case(name))
    }

    /// The licence behind it: Windows has one for clients and servers.
    pub fn licence(&self) -> &'static str {
        if self.id.is_some() { self.name } else { "Windows" }
    }

    /// Where its Volume License Pack is.
    pub fn pack_url(&self) -> Option<String> {
        self.pack
            .map(|id| format!("https://www.microsoft.com/download/details.aspx?id={id}"))
    }
}
