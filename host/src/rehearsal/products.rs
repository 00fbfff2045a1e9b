//! What a rehearsal host serves: products, each under the activation ID of its host licence.

use serde::{Deserialize, Serialize};
use uuid::{Uuid, uuid};

use crate::{config::place::SectionProblem, ledger::counting::LARGEST_REQUIRED};

/// Application ID of Office.
pub const OFFICE: Uuid = uuid!("0ff1ce15-a989-479d-af46-f275c6370663");

/// Application ID of Office as the sample output of "Configure a KMS host computer to activate volume licensed versions
/// of Office" prints it; taken for [`OFFICE`].
pub const OFFICE_AS_DOCUMENTED: Uuid = uuid!("0ff1ce16-a989-479d-af46-f275c6370663");

/// Application ID of Windows.
pub const WINDOWS: Uuid = uuid!("55c92734-d682-4d71-983e-d6ec3f16059f");

/// The count that Office clients require ("Volume Activation Planning Guide").
const OFFICE_REQUIRED: u32 = 5;

/// Office host products and the activation IDs of their host licences ("Configure a KMS host computer to activate
/// volume licensed versions of Office").
const OFFICE_PRODUCTS: [(&str, Uuid); 4] = [
    ("Office2016", uuid!("98ebfe73-2084-4c97-932c-c0cd1643bea7")),
    ("Office2019", uuid!("70512334-47b4-44db-a233-be5ea33b914c")),
    ("OfficeLTSC2021", uuid!("47f3b983-7c53-4d45-abc6-bcd91e2dd90a")),
    ("OfficeLTSC2024", uuid!("f3d89bbf-c0ec-47ce-a8fa-e5a5f97e447f")),
];

/// A product that a host serves and clients ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    /// Its name in configuration.
    pub name: String,
    /// Activation ID of its host licence. Rehearsal clients send it as KMS counted ID.
    pub id: Uuid,
    /// Its application, whose client table counts its clients.
    pub application: Uuid,
    /// N, the count that its clients require.
    pub required: u32,
}

impl Product {
    /// The Office products that this crate knows by name.
    pub fn known() -> Vec<Self> {
        let office = |(name, id): (&str, Uuid)| Self {
            name: name.to_owned(),
            id,
            application: OFFICE,
            required: OFFICE_REQUIRED,
        };
        OFFICE_PRODUCTS.map(office).into()
    }

    /// The known product of this name, however it is capitalised.
    pub fn named(name: &str) -> Option<Self> {
        Self::known()
            .into_iter()
            .find(|product| product.name.eq_ignore_ascii_case(name))
    }
}

/// A product in the configuration: a known name alone, or any name with the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProductConfig {
    /// `Office2016`, `Office2019`, `OfficeLTSC2021`, `OfficeLTSC2024`, or a name of your own.
    pub name: String,
    /// Activation ID of the host licence; needed with a name of your own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// Application ID; Office's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub application: Option<Uuid>,
    /// The count that clients require, 1..=1000; 5 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_count: Option<u32>,
}

impl ProductConfig {
    /// The product meant, or what is wrong, at a path from this item.
    pub fn resolve(&self) -> Result<Product, SectionProblem> {
        let known = Product::named(&self.name);
        let Some(id) = self.id.or(known.map(|product| product.id)) else {
            let hint =
                "give the activation ID, or one of the names Office2016, Office2019, OfficeLTSC2021, OfficeLTSC2024";
            return Err(SectionProblem::at("id", "is missing", hint));
        };
        let required = self.required_count.unwrap_or(OFFICE_REQUIRED);
        if !(1..=LARGEST_REQUIRED).contains(&required) {
            return Err(SectionProblem::at(
                "requiredCount",
                "is out of range",
                "from 1 to 1000 is possible",
            ));
        }
        let application = canonical_application(self.application.unwrap_or(OFFICE));
        Ok(Product {
            name: self.name.clone(),
            id,
            application,
            required,
        })
    }
}

/// The products of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Catalogue(Vec<Product>);

impl Catalogue {
    /// A host that serves these.
    pub fn new(products: Vec<Product>) -> Self {
        Self(products)
    }

    /// The product that a request with these IDs asks for, if it is served.
    pub fn find(&self, application: Uuid, counted_id: Uuid) -> Option<&Product> {
        let application = canonical_application(application);
        self.0
            .iter()
            .find(|product| product.id == counted_id && product.application == application)
    }

    /// Whether any product of the application is served.
    pub fn serves(&self, application: Uuid) -> bool {
        let application = canonical_application(application);
        self.0.iter().any(|product| product.application == application)
    }

    /// All products.
    pub fn products(&self) -> &[Product] {
        &self.0
    }
}

/// One ID for applications that are known under two.
pub fn canonical_application(application: Uuid) -> Uuid {
    if application == OFFICE_AS_DOCUMENTED {
        OFFICE
    } else {
        application
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(yaml: &str) -> Result<Product, String> {
        serde_saphyr::from_str::<ProductConfig>(yaml)
            .unwrap()
            .resolve()
            .map_err(|problem| crate::config::place::display_path(&problem.path))
    }

    #[test]
    fn a_known_name_is_enough() {
        let product = resolve("name: officeltsc2024").unwrap();
        assert_eq!(product.id, uuid!("f3d89bbf-c0ec-47ce-a8fa-e5a5f97e447f"));
        assert_eq!((product.application, product.required), (OFFICE, 5));
    }

    #[test]
    fn any_other_name_needs_an_id() {
        assert_eq!(resolve("name: Windows"), Err("id".to_owned()));
        let windows = resolve(
            "{name: Windows, id: 00000000-0000-0000-0000-000000000001, requiredCount: 25, \
             application: 55c92734-d682-4d71-983e-d6ec3f16059f}",
        );
        assert_eq!(
            windows.map(|product| (product.application, product.required)),
            Ok((WINDOWS, 25))
        );
        assert_eq!(
            resolve("{name: Office2016, requiredCount: 0}"),
            Err("requiredCount".into())
        );
    }

    #[test]
    fn office_is_found_under_both_of_its_application_ids() {
        let catalogue = Catalogue::new(Product::known());
        let id = Product::named("Office2019").unwrap().id;
        assert_eq!(catalogue.find(OFFICE, id), catalogue.find(OFFICE_AS_DOCUMENTED, id));
        assert!(catalogue.find(OFFICE, id).is_some());
        assert!(catalogue.find(WINDOWS, id).is_none());
        assert!(catalogue.find(OFFICE, Uuid::nil()).is_none());
    }
}
