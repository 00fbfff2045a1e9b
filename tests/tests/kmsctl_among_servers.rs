//! kmsctl beside servers that nobody here wrote.

use std::path::Path;

use anyhow::{Result, ensure};
use system_tests::redis::{self, RedisServer};
use system_tests::samba::{self, Samba};
use system_tests::{helm, peer, program};
use tokio::process::Command;

fn kmsctl() -> Result<Command> {
    let mut command = Command::new(program::path("kmsctl")?);
    command.current_dir(helm::workspace()).kill_on_drop(true);
    Ok(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_tells_a_server_without_the_kms_interface_from_one_that_is_away() -> Result<()> {
    if let Some(why) = samba::missing() {
        let test = "a_probe_tells_a_server_without_the_kms_interface_from_one_that_is_away";
        peer::skipped(test, why);
        return Ok(());
    }
    let samba = Samba::start().await?;
    let mapper = samba.endpoint_mapper.to_string();
    let output = kmsctl()?.args(["probe", &mapper]).output().await?;
    let told = String::from_utf8(output.stdout)?;
    assert_eq!(output.status.code(), Some(4), "{told}");
    ensure!(told.contains("is no KMS host"), "{told}");
    let nobody = format!("127.0.0.1:{}", program::free_port()?);
    let output = kmsctl()?.args(["probe", &mapper, &nobody]).output().await?;
    assert_eq!(output.status.code(), Some(1), "the worse of both");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_counts_in_redis_where_one_is_given() -> Result<()> {
    if let Some(why) = redis::missing() {
        peer::skipped("the_demo_counts_in_redis_where_one_is_given", &why);
        return Ok(());
    }
    let redis = RedisServer::start(&[])?;
    let output = kmsctl()?
        .args([
            "up",
            "--once",
            "-f",
            "docs/examples/demo.yaml",
            "--redis",
            &redis.address(),
        ])
        .output()
        .await?;
    let told = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(told.contains("All 6 clients are licensed."), "{told}");
    let keys = redis.cli(&["KEYS", "*"])?;
    for resource in ["stand-in", "kms"] {
        let ours = |key: &str| key.starts_with("okms:{up-") && key.contains(&format!("/{resource}}}:"));
        ensure!(keys.lines().any(ours), "no key of {resource}: {keys}");
    }

    let away = format!("127.0.0.1:{}", program::free_port()?);
    let manifest = Path::new("docs/examples/demo.yaml");
    let output = kmsctl()?
        .arg("up")
        .arg("--once")
        .arg("-f")
        .arg(manifest)
        .args(["--redis", &away])
        .output()
        .await?;
    assert_eq!(
        output.status.code(),
        Some(3),
        "a rehearsal host without its count licenses nobody"
    );
    Ok(())
}
