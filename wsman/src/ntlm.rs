//! NTLM (MS-NLMP) for one connection, client and server side: `sspi` behind an interface that does not change with it.
//!
//! NTLM authenticates a connection, not a request; both types here live exactly as long as one.

use secrecy::{ExposeSecret, SecretString};
use sspi::{
    AuthIdentity, BufferType, ClientRequestFlags, CredentialUse, DataRepresentation, EncryptionFlags, Ntlm,
    SecurityBuffer, SecurityBufferRef, SecurityStatus, ServerRequestFlags, Sspi, SspiImpl, Username,
};

/// Longest token that we look at; real ones stay below 1 KiB.
const MAX_TOKEN: usize = 16 * 1024;

/// Why an NTLM exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum NtlmError {
    /// The user name cannot be one.
    #[error("{0:?} is not a Windows user name: write USER, DOMAIN\\USER or USER@DOMAIN")]
    UserName(String),
    /// The other side's token, signature or sealed message does not fit.
    #[error("the NTLM exchange failed")]
    Exchange(#[source] sspi::Error),
    /// The token is too long, or of no known shape.
    #[error("the NTLM token is malformed")]
    Token,
    /// The client proves no knowledge of the password.
    #[error("the NTLM logon is denied")]
    Denied,
}

/// A user and password.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// `USER`, `DOMAIN\USER` or `USER@DOMAIN`.
    pub user: String,
    /// The password.
    pub password: SecretString,
}

impl Credentials {
    fn identity(&self) -> Result<AuthIdentity, NtlmError> {
        let username = Username::parse(&self.user).map_err(|_| NtlmError::UserName(self.user.clone()))?;
        Ok(AuthIdentity {
            username,
            password: self.password.expose_secret().to_owned().into(),
        })
    }

    /// The account without its domain.
    pub fn account(&self) -> &str {
        let user = self.user.rsplit('\\').next().unwrap_or_default();
        user.split('@').next().unwrap_or_default()
    }
}

/// What seals and opens messages after a finished exchange.
pub struct Session(Ntlm);

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// Seals a message: its signature and the sealed bytes. Messages are numbered, so order matters.
    ///
    /// # Errors
    /// When the context refuses.
    pub fn seal(&mut self, plain: &[u8]) -> Result<(Vec<u8>, Vec<u8>), NtlmError> {
        let mut signature = vec![0; sspi::ntlm::SIGNATURE_SIZE];
        let mut data = plain.to_vec();
        let mut buffers = [
            SecurityBufferRef::token_buf(&mut signature),
            SecurityBufferRef::data_buf(&mut data),
        ];
        self.0
            .encrypt_message(EncryptionFlags::empty(), &mut buffers)
            .map_err(NtlmError::Exchange)?;
        Ok((signature, data))
    }

    /// Opens a sealed message.
    ///
    /// # Errors
    /// When the signature does not fit: altered, replayed, or sealed under another password.
    pub fn open(&mut self, signature: &[u8], sealed: &[u8]) -> Result<Vec<u8>, NtlmError> {
        if signature.len() != sspi::ntlm::SIGNATURE_SIZE {
            return Err(NtlmError::Token);
        }
        let mut signature = signature.to_vec();
        let mut data = sealed.to_vec();
        let mut buffers = [
            SecurityBufferRef::token_buf(&mut signature),
            SecurityBufferRef::data_buf(&mut data),
        ];
        self.0.decrypt_message(&mut buffers).map_err(NtlmError::Exchange)?;
        Ok(data)
    }
}

/// The client's side of an exchange, between its first and its last token.
pub struct Client {
    context: Ntlm,
    credentials: Option<sspi::AuthIdentityBuffers>,
}

impl Client {
    /// Begins: gives the first token (NEGOTIATE). `binding` is the `tls-server-end-point` value with its prefix.
    ///
    /// # Errors
    /// When the user name cannot be one.
    pub fn begin(credentials: &Credentials, binding: Option<&[u8]>) -> Result<(Self, Vec<u8>), NtlmError> {
        let mut context = Ntlm::new();
        if let Some(binding) = binding {
            context.set_channel_bindings(binding);
        }
        let acquired = context
            .acquire_credentials_handle()
            .with_credential_use(CredentialUse::Outbound)
            .with_auth_data(&credentials.identity()?)
            .execute(&mut context)
            .map_err(NtlmError::Exchange)?;
        let mut client = Self {
            context,
            credentials: acquired.credentials_handle,
        };
        let token = client.step(&[])?;
        Ok((client, token))
    }

    /// Takes the host's CHALLENGE and gives the last token (AUTHENTICATE) with what seals from then on.
    ///
    /// # Errors
    /// When the challenge is malformed.
    pub fn finish(mut self, challenge: &[u8]) -> Result<(Vec<u8>, Session), NtlmError> {
        if challenge.len() > MAX_TOKEN {
            return Err(NtlmError::Token);
        }
        let token = self.step(challenge)?;
        Ok((token, Session(self.context)))
    }

    fn step(&mut self, input: &[u8]) -> Result<Vec<u8>, NtlmError> {
        let mut input = vec![SecurityBuffer::new(input.to_vec(), BufferType::Token)];
        let mut output = vec![SecurityBuffer::new(Vec::new(), BufferType::Token)];
        let mut builder = self
            .context
            .initialize_security_context()
            .with_credentials_handle(&mut self.credentials)
            .with_context_requirements(ClientRequestFlags::CONFIDENTIALITY | ClientRequestFlags::INTEGRITY)
            .with_target_data_representation(DataRepresentation::Native)
            .with_target_name("HTTP")
            .with_input(&mut input)
            .with_output(&mut output);
        self.context
            .initialize_security_context_impl(&mut builder)
            .map_err(NtlmError::Exchange)?
            .resolve_to_result()
            .map_err(NtlmError::Exchange)?;
        output.pop().map(|buffer| buffer.buffer).ok_or(NtlmError::Token)
    }
}

/// The server's side of an exchange, between challenge and proof.
pub struct Server(Ntlm);

impl Server {
    /// Takes the client's NEGOTIATE and gives the CHALLENGE.
    ///
    /// # Errors
    /// When the token is malformed.
    pub fn challenge(token: &[u8], binding: Option<&[u8]>) -> Result<(Self, Vec<u8>), NtlmError> {
        let mut context = Ntlm::new();
        if let Some(binding) = binding {
            context.set_channel_bindings(binding);
        }
        let mut server = Self(context);
        let (_, output) = server.step(token, &mut None)?;
        Ok((server, output))
    }

    /// Takes the client's AUTHENTICATE and checks it against the one account that may log on.
    ///
    /// # Errors
    /// [`NtlmError::Denied`] for another account or password; others for malformed tokens.
    pub fn authenticate(mut self, token: &[u8], account: &Credentials) -> Result<Session, NtlmError> {
        // The only proof of the password that sspi checks is the message integrity code; without one it would accept
        // anybody. Every client since Windows Vista sends it when the challenge carries a time stamp, as ours does.
        if !carries_integrity_code(token) {
            return Err(NtlmError::Denied);
        }
        let identity = account.identity()?;
        let mut handle = Some(sspi::AuthIdentityBuffers::from(identity));
        let (status, _) = self.step(token, &mut handle)?;
        if status != SecurityStatus::CompleteNeeded {
            return Err(NtlmError::Denied);
        }
        self.0.complete_auth_token(&mut []).map_err(|_| NtlmError::Denied)?;
        // The user name that was proved is the client's own; it must be the account's.
        let names = self.0.query_context_names().map_err(NtlmError::Exchange)?;
        if !names.username.account_name().eq_ignore_ascii_case(account.account()) {
            return Err(NtlmError::Denied);
        }
        Ok(Session(self.0))
    }

    fn step(
        &mut self,
        token: &[u8],
        credentials: &mut Option<sspi::AuthIdentityBuffers>,
    ) -> Result<(SecurityStatus, Vec<u8>), NtlmError> {
        if token.len() > MAX_TOKEN {
            return Err(NtlmError::Token);
        }
        let mut input = vec![SecurityBuffer::new(token.to_vec(), BufferType::Token)];
        let mut output = vec![SecurityBuffer::new(Vec::new(), BufferType::Token)];
        let builder = self
            .0
            .accept_security_context()
            .with_credentials_handle(credentials)
            .with_context_requirements(ServerRequestFlags::ALLOCATE_MEMORY)
            .with_target_data_representation(DataRepresentation::Native)
            .with_input(&mut input)
            .with_output(&mut output);
        let result = SspiImpl::accept_security_context_impl(&mut self.0, builder)
            .map_err(NtlmError::Exchange)?
            .resolve_to_result()
            .map_err(NtlmError::Exchange)?;
        Ok((
            result.status,
            output.pop().map(|buffer| buffer.buffer).unwrap_or_default(),
        ))
    }
}

/// Whether an AUTHENTICATE's NTLMv2 response says, in its MsvAvFlags (id 6, bit 0x2), that the message carries an
/// integrity code (MS-NLMP 2.2.2.1, 2.2.2.7).
fn carries_integrity_code(token: &[u8]) -> bool {
    let response = || {
        // NtChallengeResponseFields: length at 20, offset at 24 (MS-NLMP 2.2.1.3).
        let length = usize::from(u16::from_le_bytes(*token.get(20..)?.first_chunk()?));
        let offset = usize::try_from(u32::from_le_bytes(*token.get(24..)?.first_chunk()?)).ok()?;
        token.get(offset..offset.checked_add(length)?)
    };
    // NTProofStr (16) and the fixed head of NTLMv2_CLIENT_CHALLENGE (28) come before the AV pairs.
    let Some(mut pairs) = response().and_then(|response| response.get(44..)) else {
        return false;
    };
    while let Some((id, rest)) = pairs.split_first_chunk::<2>() {
        let Some((length, rest)) = rest.split_first_chunk::<2>() else {
            return false;
        };
        let Some((value, rest)) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length))) else {
            return false;
        };
        match u16::from_le_bytes(*id) {
            0 => return false,
            6 => return value.first().is_some_and(|flags| flags & 0x2 != 0),
            _ => pairs = rest,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account(user: &str, password: &str) -> Credentials {
        Credentials {
            user: user.into(),
            password: password.to_owned().into(),
        }
    }

    fn exchange(
        client: &Credentials,
        server: &Credentials,
        bindings: [Option<&[u8]>; 2],
    ) -> Result<(Session, Session), NtlmError> {
        let (side, negotiate) = Client::begin(client, bindings[0])?;
        let (host, challenge) = Server::challenge(&negotiate, bindings[1])?;
        let (authenticate, ours) = side.finish(&challenge)?;
        Ok((ours, host.authenticate(&authenticate, server)?))
    }

    #[test]
    fn a_right_password_seals_both_ways_in_order() {
        let kms = account("CONTOSO\\kms-admin", "s3cret");
        let (mut client, mut server) = exchange(&kms, &kms, [Some(b"tls-server-end-point:x"); 2]).unwrap();
        for text in [b"first".as_slice(), b"second", b""] {
            let (signature, sealed) = client.seal(text).unwrap();
            assert!(text.is_empty() || sealed != text);
            assert_eq!(server.open(&signature, &sealed).unwrap(), text);
            let (signature, sealed) = server.seal(text).unwrap();
            assert_eq!(client.open(&signature, &sealed).unwrap(), text);
        }
        let (signature, mut sealed) = client.seal(b"third").unwrap();
        sealed[0] ^= 1;
        assert!(server.open(&signature, &sealed).is_err());
    }

    #[test]
    fn another_password_account_or_channel_is_denied() {
        let kms = account("kms-admin", "s3cret");
        assert!(matches!(
            exchange(&account("kms-admin", "guess"), &kms, [None, None]),
            Err(NtlmError::Denied)
        ));
        assert!(matches!(
            exchange(&account("mallory", "s3cret"), &kms, [None, None]),
            Err(NtlmError::Denied)
        ));
        assert!(
            exchange(
                &kms,
                &kms,
                [Some(b"tls-server-end-point:x"), Some(b"tls-server-end-point:y")]
            )
            .is_err()
        );
        assert!(exchange(&account("KMS-Admin", "s3cret"), &kms, [None, None]).is_ok());
    }

    #[test]
    fn a_logon_without_integrity_code_is_denied() {
        let kms = account("kms-admin", "s3cret");
        let (side, negotiate) = Client::begin(&account("kms-admin", "guess"), None).unwrap();
        let (host, challenge) = Server::challenge(&negotiate, None).unwrap();
        let (mut authenticate, _) = side.finish(&challenge).unwrap();
        // Clear MsvAvFlags, as a client that knows no password would.
        let flags = authenticate
            .windows(8)
            .position(|w| w == [6, 0, 4, 0, 2, 0, 0, 0])
            .unwrap();
        authenticate[flags + 4] = 0;
        assert!(matches!(host.authenticate(&authenticate, &kms), Err(NtlmError::Denied)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn hostile_tokens_never_panic(noise in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>(), to in any::<u8>(), cut in any::<usize>()) {
            let kms = account("kms-admin", "s3cret");
            let damage = |token: &mut Vec<u8>| {
                let position = at % token.len();
                token[position] = to;
                if cut % 3 == 0 { token.truncate(cut % token.len()) }
            };
            let _ = Server::challenge(&noise, None).map(|_| ());
            let (side, mut negotiate) = Client::begin(&kms, None).unwrap();
            let (host, mut challenge) = Server::challenge(&negotiate.clone(), None).unwrap();
            damage(&mut negotiate);
            let _ = Server::challenge(&negotiate, None).map(|_| ());
            let (mut authenticate, _) = Client::begin(&kms, None).unwrap().0.finish(&challenge).unwrap();
            damage(&mut challenge);
            let _ = side.finish(&challenge).map(|_| ());
            damage(&mut authenticate);
            let _ = carries_integrity_code(&noise);
            let _ = host.authenticate(&authenticate, &kms).map(|_| ());
        }
    }
}
