//! Fault statuses: what a fault PDU says went wrong.

use std::fmt;

/// The status word of a fault PDU (C706 appendix E, MS-RPCE 2.2.2.8), or a Win32 error code as Windows sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FaultStatus(pub u32);

impl FaultStatus {
    /// nca_s_op_rng_error: the interface has no such operation.
    pub const OP_RNG_ERROR: Self = Self(0x1C01_0002);
    /// nca_s_unk_if: the request names a presentation context that was not accepted.
    pub const UNKNOWN_IF: Self = Self(0x1C01_0003);
    /// nca_s_proto_error: the PDU breaks the protocol.
    pub const PROTO_ERROR: Self = Self(0x1C01_000B);
    /// nca_s_server_too_busy: the server cannot serve the call now.
    pub const SERVER_TOO_BUSY: Self = Self(0x1C01_0014);
    /// nca_s_fault_context_mismatch: a *context handle* is unknown to the server.
    pub const CONTEXT_MISMATCH: Self = Self(0x1C00_001A);
    /// RPC_X_BAD_STUB_DATA (Win32 1783): the stub could not be unmarshalled.
    pub const BAD_STUB_DATA: Self = Self(0x0000_06F7);
    /// RPC_S_SERVER_TOO_BUSY (Win32 1723).
    pub const WIN32_SERVER_TOO_BUSY: Self = Self(0x0000_06BB);
    /// RPC_S_SERVER_UNAVAILABLE (Win32 1722).
    pub const WIN32_SERVER_UNAVAILABLE: Self = Self(0x0000_06BA);
    /// nca_s_fault_remote_no_memory: the server has no memory for the call (C706 appendix E).
    pub const REMOTE_NO_MEMORY: Self = Self(0x1C00_001B);
    /// ERROR_SHUTDOWN_IN_PROGRESS (Win32 1115, MS-ERREF 2.2): the server's machine goes down.
    pub const WIN32_SHUTDOWN_IN_PROGRESS: Self = Self(0x0000_045B);
    /// RPC_S_OUT_OF_RESOURCES (Win32 1721, MS-ERREF 2.2).
    pub const WIN32_OUT_OF_RESOURCES: Self = Self(0x0000_06B9);
    /// RPC_S_CALL_FAILED (Win32 1726, MS-ERREF 2.2): the server's runtime gave the call up.
    pub const WIN32_CALL_FAILED: Self = Self(0x0000_06BE);
    /// RPC_S_CALL_FAILED_DNE (Win32 1727, MS-ERREF 2.2): the same, before the call was executed.
    pub const WIN32_CALL_FAILED_DNE: Self = Self(0x0000_06BF);
    /// RPC_S_UNKNOWN_IF (Win32 1717, MS-ERREF 2.2): the interface is not registered, or no longer.
    pub const WIN32_UNKNOWN_IF: Self = Self(0x0000_06B5);
    /// RPC_S_ACCESS_DENIED (Win32 5): also what Windows answers to a call larger than the interface's maximum.
    pub const ACCESS_DENIED: Self = Self(0x0000_0005);

    /// The status' name, or `None` for one that we have no name for. Bounded, so fit for a metric's label.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::OP_RNG_ERROR => "nca_s_op_rng_error",
            Self::UNKNOWN_IF => "nca_s_unk_if",
            Self::PROTO_ERROR => "nca_s_proto_error",
            Self::SERVER_TOO_BUSY => "nca_s_server_too_busy",
            Self::CONTEXT_MISMATCH => "nca_s_fault_context_mismatch",
            Self::BAD_STUB_DATA => "rpc_x_bad_stub_data",
            Self::WIN32_SERVER_TOO_BUSY => "rpc_s_server_too_busy",
            Self::WIN32_SERVER_UNAVAILABLE => "rpc_s_server_unavailable",
            Self::REMOTE_NO_MEMORY => "nca_s_fault_remote_no_memory",
            Self::WIN32_SHUTDOWN_IN_PROGRESS => "error_shutdown_in_progress",
            Self::WIN32_OUT_OF_RESOURCES => "rpc_s_out_of_resources",
            Self::WIN32_CALL_FAILED => "rpc_s_call_failed",
            Self::WIN32_CALL_FAILED_DNE => "rpc_s_call_failed_dne",
            Self::WIN32_UNKNOWN_IF => "rpc_s_unknown_if",
            Self::ACCESS_DENIED => "rpc_s_access_denied",
            _ => return None,
        })
    }

    /// Whether the fault speaks of the server's state and not of the request: another server may well answer the same
    /// request. A fault about the request itself would be the same everywhere.
    ///
    /// To whom bound the context and made the PDU himself, one that says that the interface is unknown or the protocol
    /// broken speaks of a server that does not serve, too: nothing of the request's sender is in what it blames.
    #[must_use]
    pub const fn is_of_the_server(self) -> bool {
        matches!(
            self,
            Self::SERVER_TOO_BUSY
                | Self::REMOTE_NO_MEMORY
                | Self::WIN32_SERVER_TOO_BUSY
                | Self::WIN32_SERVER_UNAVAILABLE
                | Self::WIN32_SHUTDOWN_IN_PROGRESS
                | Self::WIN32_OUT_OF_RESOURCES
                | Self::WIN32_CALL_FAILED
                | Self::WIN32_CALL_FAILED_DNE
                | Self::UNKNOWN_IF
                | Self::PROTO_ERROR
                | Self::WIN32_UNKNOWN_IF
        )
    }
}

impl fmt::Display for FaultStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} (0x{:08X})", self.0),
            None => write!(f, "0x{:08X}", self.0),
        }
    }
}
