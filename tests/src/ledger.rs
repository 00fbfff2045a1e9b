//! Ledgers for tests: their configuration, and what is written into them.

use anyhow::Result;
use kms_host::{
    config::Period,
    ledger::{
        self, Event, LedgerConfig, LedgerKey, Millis, Opened, Sighting,
        config::{RedisConfig, RedisMode},
    },
};
use tempfile::TempDir;
use uuid::Uuid;

/// A time that tests count from.
pub const NOW: Millis = Millis(1_790_000_000_000);

/// A day in milliseconds.
pub const DAY: i64 = 24 * 60 * 60 * 1000;

/// A Redis section with patience for a busy machine.
pub fn redis_config(addresses: Vec<String>, mode: RedisMode) -> RedisConfig {
    RedisConfig {
        addresses,
        mode,
        sentinel: None,
        database: 0,
        username: None,
        password_file: None,
        tls: None,
        key_prefix: "okms:{test}:".to_owned(),
        connect_timeout: Period::seconds(10),
        response_timeout: Period::seconds(10),
    }
}

/// Opens a ledger in Redis under the tests' ledger key.
pub fn open_redis(config: RedisConfig) -> Result<Opened> {
    let dir = TempDir::new()?;
    let key_file = dir.path().join("ledger.key");
    std::fs::write(&key_file, [7; 32])?;
    Ok(ledger::open(&LedgerConfig {
        memory: None,
        redis: Some(config),
        key_file: Some(key_file),
    })?)
}

/// The tests' ledger key.
pub fn key() -> LedgerKey {
    LedgerKey::new(&[7; 32])
}

/// The name of machine `n`.
pub fn machine_name(n: u32) -> String {
    format!("pc{n:04}.contoso.com")
}

/// The client machine ID of machine `n`.
pub fn cmid(n: u32) -> Uuid {
    Uuid::from_u128(0xC0FF_EE00_1234_4000_8000_0000_0000_0000 + u128::from(n))
}

/// The event of a request of machine `n`.
pub fn event(n: u32, at: Millis) -> Event {
    Event {
        at,
        host: "rehearsal".to_owned(),
        hresult: 0,
        required: 5,
        client_name: machine_name(n),
        cmid: cmid(n),
        client_time: "2026/9/21 14:13".to_owned(),
        virtual_machine: n.is_multiple_of(2),
        license_status: n % 7,
        minutes_to_expiration: 43_200,
        activation_id: Uuid::from_u128(9),
    }
}

/// A request of machine `n`, made by the client's clock when it was received.
pub fn sighting(application: Uuid, n: u32, required: u32, at: Millis) -> Sighting {
    Sighting {
        application,
        client: key().machine(&cmid(n)),
        required,
        at,
        request_time_micros: at.0 * 1000,
        event: event(n, at),
    }
}
