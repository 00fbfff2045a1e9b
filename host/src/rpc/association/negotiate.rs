//! Which proposed presentation contexts are accepted (C706 12.6.3.1, MS-RPCE 3.3.1.5.3 and 3.3.1.5.6).
//!
//! Windows clients propose the same interface in several contexts, one for each transfer syntax, and the server accepts
//! at most one of those syntaxes: the most preferred of its own that was proposed. Every context gets its own result.

use crate::rpc::pdu::{ContextElement, ContextResult, RejectReason};
use crate::rpc::syntax::{Offer, TransferSyntax};
use crate::rpc::violation::Violation;

/// Bind-time features that we accept: bit 1, the connection is kept when a call is orphaned. Bit 0, security context
/// multiplexing, has no meaning on an anonymous interface.
const FEATURES: u64 = 0b10;

/// An accepted presentation context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) id: u16,
    pub(super) syntax: TransferSyntax,
}

/// Answers the contexts of a bind, bind-time features included, and adds what is accepted to `contexts`.
pub(super) fn bind(
    offer: &Offer,
    limit: u8,
    contexts: &mut Vec<Context>,
    proposed: &[ContextElement],
) -> Result<Vec<ContextResult>, Violation> {
    if proposed.iter().filter(|element| features(element).is_some()).count() > 1 {
        return Err(Violation::FeaturesTwice);
    }
    negotiate(offer, limit, contexts, proposed, |element| {
        let accepted = features(element)? & FEATURES;
        u16::try_from(accepted).ok().map(ContextResult::Features)
    })
}

/// Answers the contexts of an alter_context, where features are no longer negotiated.
pub(super) fn alter_context(
    offer: &Offer,
    limit: u8,
    contexts: &mut Vec<Context>,
    proposed: &[ContextElement],
) -> Result<Vec<ContextResult>, Violation> {
    negotiate(offer, limit, contexts, proposed, |_| None)
}

fn negotiate(
    offer: &Offer,
    limit: u8,
    contexts: &mut Vec<Context>,
    proposed: &[ContextElement],
    special: impl Fn(&ContextElement) -> Option<ContextResult>,
) -> Result<Vec<ContextResult>, Violation> {
    if proposed.is_empty() || proposed.iter().any(|element| element.transfer_syntaxes.is_empty()) {
        return Err(Violation::NothingProposed);
    }
    let ours = |element: &ContextElement| offer.interface.serves(&element.abstract_syntax);
    let proposes = |element: &ContextElement, syntax: TransferSyntax| element.transfer_syntaxes.contains(&syntax.id());
    let chosen = offer.syntaxes.iter().copied().find(|syntax| {
        proposed
            .iter()
            .any(|element| ours(element) && proposes(element, *syntax))
    });
    proposed
        .iter()
        .map(|element| {
            if let Some(result) = special(element) {
                return Ok(result);
            }
            if !ours(element) {
                return Ok(ContextResult::ProviderRejection(
                    RejectReason::ABSTRACT_SYNTAX_NOT_SUPPORTED,
                ));
            }
            match chosen.filter(|syntax| proposes(element, *syntax)) {
                Some(syntax) => accept(contexts, limit, Context { id: element.id, syntax }),
                None => Ok(ContextResult::ProviderRejection(
                    RejectReason::TRANSFER_SYNTAXES_NOT_SUPPORTED,
                )),
            }
        })
        .collect()
}

/// Adds a context, unless it is there already.
fn accept(contexts: &mut Vec<Context>, limit: u8, context: Context) -> Result<ContextResult, Violation> {
    match contexts.iter().find(|known| known.id == context.id) {
        Some(known) if known.syntax != context.syntax => {
            return Err(Violation::ContextRedefined(context.id));
        }
        Some(_) => {}
        None if contexts.len() >= usize::from(limit) => {
            return Ok(ContextResult::ProviderRejection(RejectReason::LOCAL_LIMIT_EXCEEDED));
        }
        None => contexts.push(context),
    }
    Ok(ContextResult::Accepted(context.syntax.id()))
}

/// The features that a context proposes. Only its first transfer syntax counts, as with Windows.
fn features(element: &ContextElement) -> Option<u64> {
    element.transfer_syntaxes.first()?.as_bind_time_features()
}
