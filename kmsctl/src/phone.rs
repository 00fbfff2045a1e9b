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

use crate::fleet::{Member, Where, members};
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
    /// The product, such as `Office2016`.
    #[arg(long, default_value = "Office2016")]
    product: String,
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
fn one(members: Vec<Member>) -> anyhow::Result<Client> {
    let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    if names.len() > 1 {
        bail!(
            "the resource has several licensed hosts, choose one with --licensed-host: {}",
            names.join(", ")
        );
    }
    let member = members
        .into_iter()
        .next()
        .context("the resource has no licensed host")?;
    Ok(member.client)
}

/// Runs the command.
///
/// # Errors
/// When the host cannot be read, has no key, or refuses the confirmation ID.
pub async fn run(args: &Args) -> anyhow::Result<()> {
    let product =
        HostProduct::named(&args.product).with_context(|| format!("no product is called `{}`", args.product))?;
    let client = match &args.name {
        Some(name) => one(members(name, &args.place, args.reach.patience()).await?)?,
        None => args.reach.client()?,
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
