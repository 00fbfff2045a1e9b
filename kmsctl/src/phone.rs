//! `kmsctl phone`: walks through activation by telephone.

use std::io::{BufRead as _, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use kms_host::rehearsal::management::licences::rehearsal_confirmation_id;
use kms_operator::licensing::execute::{Action, carry_out};
use kms_operator::licensing::observe;
use kms_operator::licensing::phone::{confirmation_id, grouped};
use kms_operator::licensing::products::HostProduct;
use secrecy::SecretString;
use wsman::client::Client;

use crate::fleet::{Fleet, Where, members};
use crate::winrm::Reach;

/// Shows the installation ID of a host key in groups, takes the confirmation ID that Microsoft's Activation Center
/// answers, and activates the host with it.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Resource in the cluster of the kubeconfig, whose licensed host is meant; or give one host with --host
    #[arg(id = "name", value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    reach: Reach,
    /// The product, such as `Office2016` [default: the one that the resource activates by telephone]
    #[arg(long, required_unless_present = "name")]
    product: Option<String>,
    /// File with the confirmation ID; asked for on the terminal when absent.
    #[arg(long, value_name = "FILE")]
    confirmation_id_file: Option<PathBuf>,
    /// Show the installation ID and end.
    #[arg(long, conflicts_with = "confirmation_id_file")]
    show: bool,
    /// Print the confirmation ID that a *rehearsal* host takes, and end: the part of Microsoft's voice in a drill.
    #[arg(long, conflicts_with_all = ["show", "confirmation_id_file"])]
    rehearsal_voice: bool,
}

/// A call to Microsoft is about one host.
fn one(fleet: Fleet) -> anyhow::Result<Client> {
    let names: Vec<&str> = fleet.members.iter().map(|member| member.name.as_str()).collect();
    if names.len() > 1 {
        bail!(
            "the resource has several licensed hosts, choose one with --licensed-host: {}",
            names.join(", ")
        );
    }
    match fleet.members.into_iter().next() {
        Some(member) => Ok(member.client),
        None => bail!("no licensed host can be asked: {}", fleet.failures.join("; ")),
    }
}

/// And about one product.
fn product(asked: Option<&str>, by_phone: &[&str]) -> anyhow::Result<&'static HostProduct> {
    let name = match (asked, by_phone) {
        (Some(name), _) => name,
        (None, [one]) => one,
        (None, []) => bail!("the resource activates no product by telephone: name one with --product"),
        (None, several) => bail!(
            "the resource activates several products by telephone, choose one with --product: {}",
            several.join(", ")
        ),
    };
    HostProduct::named(name).with_context(|| format!("no product is called `{name}`"))
}

/// Runs the command.
///
/// # Errors
/// When the host cannot be read, has no key, or refuses the confirmation ID.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let asked = args.product.as_deref();
    let (product, client) = match &args.name {
        Some(name) => {
            let fleet = members(name, &args.place, args.reach.patience()).await?;
            (product(asked, &fleet.by_phone)?, one(fleet)?)
        }
        None => (product(asked, &[])?, args.reach.client()?),
    };
    let facts = observe::read(&client, &[product]).await?;
    let found = facts.product(product).with_context(|| {
        let pack = product.pack_url().unwrap_or_default();
        format!(
            "{} does not carry {}: install its Volume License Pack ({pack})",
            client.host(),
            product.title
        )
    })?;
    let Some(installation_id) = &found.installation_id else {
        bail!(
            "{} has no KMS host key of {}: install it first",
            client.host(),
            product.title
        );
    };
    let mut out = std::io::stdout().lock();
    if args.rehearsal_voice {
        writeln!(out, "{}", grouped(&rehearsal_confirmation_id(installation_id)))?;
        return Ok(());
    }
    writeln!(out, "Installation ID of {} on {}:", product.title, client.host())?;
    for (at, group) in grouped(installation_id).split('-').enumerate() {
        writeln!(out, "  {}: {group}", at + 1)?;
    }
    if args.show {
        return Ok(());
    }
    writeln!(
        out,
        "Call Microsoft's Activation Center (`slui 4` on a Windows machine shows its number), choose"
    )?;
    writeln!(
        out,
        "\"activate Office\" and \"KMS host\", and give these digits. You are told 48 digits in groups A to H."
    )?;
    let typed = match &args.confirmation_id_file {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => {
            write!(out, "Confirmation ID: ")?;
            out.flush()?;
            let mut line = String::new();
            std::io::stdin()
                .lock()
                .read_line(&mut line)
                .context("no confirmation ID was typed")?;
            line
        }
    };
    let digits = SecretString::from(confirmation_id(&typed)?);
    let action = Action::Confirm {
        id: found.id,
        installation_id,
        confirmation_id: &digits,
    };
    carry_out(&client, &facts.service.version, &action).await?;
    let status = observe::read(&client, &[product])
        .await?
        .product(product)
        .map(|found| found.status);
    writeln!(
        out,
        "{} on {}: {}",
        product.title,
        client.host(),
        status.map_or("Unknown", |status| status.as_str())
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_is_the_one_that_is_named_or_that_the_resource_activates_by_telephone() {
        let of = |asked, by_phone: &[&str]| product(asked, by_phone).map(|product| product.name);
        assert_eq!(of(None, &["OfficeLTSC2024"]).unwrap(), "OfficeLTSC2024");
        assert_eq!(of(Some("office2016"), &["OfficeLTSC2024"]).unwrap(), "Office2016");
        for (by_phone, told) in [
            (&[][..], "name one with --product"),
            (
                &["Office2016", "Office2019"],
                "choose one with --product: Office2016, Office2019",
            ),
        ] {
            let error = of(None, by_phone).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
        assert!(of(Some("Office97"), &[]).is_err());
    }
}
