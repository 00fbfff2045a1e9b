//! The licensed hosts of a resource in a cluster: found in the resource, reached with its Secrets, as the operator reaches
//! them, by the rights of the user's kubeconfig.

use std::time::Duration;

use anyhow::{Context as _, bail};
use kms_operator::api::{ActivationMethod, OfficeKmsHost};
use kms_operator::reach::Reach;
use kms_operator::secrets::{Names, Objects, ReadSecrets};
use kube::{Api, Client};
use wsman::client::Limits;

use crate::cluster::{self, InNamespace};

/// Where the resource is.
#[derive(Debug, Clone, clap::Args)]
pub struct Where {
    /// Namespace of the resource [default: that of the kubeconfig's context]
    #[arg(short, long, requires = "name")]
    namespace: Option<String>,
    /// Context of the kubeconfig [default: the current one]
    #[arg(long, requires = "name")]
    context: Option<String>,
    /// Only this licensed host of the resource
    #[arg(long, value_name = "NAME", requires = "name")]
    licensed_host: Option<String>,
}

/// A licensed host that can be asked.
#[derive(Debug)]
pub struct Member {
    /// Its name in the resource.
    pub name: String,
    /// How it is asked.
    pub client: wsman::client::Client,
}

/// The licensed hosts of a resource.
#[derive(Debug, Default)]
pub struct Fleet {
    /// Those that can be asked.
    pub members: Vec<Member>,
    /// Those that cannot, by their names, and what to do.
    pub failures: Vec<String>,
    /// Products that the resource activates by telephone.
    pub by_phone: Vec<&'static str>,
}

/// The licensed hosts of the resource `name` that have a `management` section.
///
/// # Errors
/// When the resource cannot be read, or none of its hosts has a `management` section.
pub async fn members(name: &str, place: &Where, patience: Duration) -> anyhow::Result<Fleet> {
    let (client, default) = cluster::connect(place.context.as_deref()).await?;
    let namespace = place.namespace.clone().unwrap_or(default);
    members_in(&client, &namespace, name, place.licensed_host.as_deref(), patience).await
}

/// The same, of a cluster that is at hand; `only` names one licensed host.
///
/// # Errors
/// As [`members`].
pub async fn members_in(
    client: &Client,
    namespace: &str,
    name: &str,
    only: Option<&str>,
    patience: Duration,
) -> anyhow::Result<Fleet> {
    let resources: Api<OfficeKmsHost> = Api::namespaced(client.clone(), namespace);
    let host = resources
        .get(name)
        .await
        .with_context(|| format!("the OfficeKmsHost {name} of the namespace {namespace} cannot be read"))?;
    let secrets = InNamespace::new(client, namespace);
    of(&host, &secrets, only, patience).await
}

/// The licensed hosts of a resource, however it was read.
///
/// # Errors
/// As [`members`].
pub async fn of(
    host: &OfficeKmsHost,
    secrets: &dyn ReadSecrets,
    only: Option<&str>,
    patience: Duration,
) -> anyhow::Result<Fleet> {
    let licensed = host.spec.licensed_hosts.iter().flatten();
    let managed: Vec<_> = licensed
        .filter(|licensed| only.is_none_or(|only| licensed.name == only))
        .filter_map(|licensed| Some((licensed, licensed.management.as_ref()?)))
        .collect();
    if managed.is_empty() {
        bail!(match only {
            Some(only) => format!("the resource has no licensed host `{only}` with a management section"),
            None => "no licensed host of the resource has a management section: give one, or use --host".to_owned(),
        });
    }
    let mut names = Names::default();
    for (licensed, management) in &managed {
        Reach::to_host(licensed, management).names(&mut names);
    }
    let objects = Objects::read(secrets, &names).await;
    let limits = Limits {
        timeout: patience,
        ..Limits::default()
    };
    let products = host.spec.products.iter().flatten();
    let mut fleet = Fleet {
        by_phone: products
            .filter(|product| product.activation == ActivationMethod::Phone)
            .map(|product| product.name.as_str())
            .collect(),
        ..Fleet::default()
    };
    for (licensed, management) in managed {
        let resolved = Reach::to_host(licensed, management).resolve(&objects);
        let told = match resolved {
            Ok((endpoint, credentials)) => match wsman::client::Client::new(endpoint, credentials, limits) {
                Ok(client) => {
                    let name = licensed.name.clone();
                    fleet.members.push(Member { name, client });
                    continue;
                }
                Err(error) => error.to_string(),
            },
            Err(problems) => {
                let told = problems
                    .iter()
                    .map(|problem| format!("management.{}: {}", problem.field, problem.message));
                told.collect::<Vec<_>>().join("; ")
            }
        };
        fleet.failures.push(format!("{}: {told}", licensed.name));
    }
    Ok(fleet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> OfficeKmsHost {
        serde_saphyr::from_str(
            "{apiVersion: officekms.io/v1alpha1, kind: OfficeKmsHost, metadata: {name: kms}, spec: {licensedHosts: [{name: \
             kms01, address: kms01.example.com, management: {credentialsSecret: {name: account}}}, {name: kms02, address: \
             kms02.example.com}]}}",
        )
        .unwrap()
    }

    fn account() -> Objects {
        let mut objects = Objects::default();
        let secret = "{metadata: {name: account}, stringData: {username: admin, password: pw}}";
        objects.add_secret(serde_saphyr::from_str(secret).unwrap());
        objects
    }

    const PATIENCE: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn hosts_with_management_are_reached_as_the_operator_reaches_them() {
        let members = of(&host(), &account(), None, PATIENCE).await.unwrap().members;
        assert_eq!(members.len(), 1);
        assert_eq!(
            (members[0].name.as_str(), members[0].client.host().as_str()),
            ("kms01", "kms01.example.com:5986")
        );
    }

    #[tokio::test]
    async fn what_is_missing_is_said() {
        let missing = of(&host(), &Objects::default(), None, PATIENCE).await.unwrap();
        assert!(missing.members.is_empty());
        assert_eq!(
            missing.failures,
            ["kms01: management.credentialsSecret: there is no Secret `account` in this namespace: create it"]
        );
        let unmanaged = of(&host(), &account(), Some("kms02"), PATIENCE)
            .await
            .unwrap_err()
            .to_string();
        assert!(unmanaged.contains("no licensed host `kms02`"), "{unmanaged}");
    }
}
