//! The little that the relay reads of a message: the two version words in front and the return code behind.
//!
//! Both are outside what the bodies protect, and serve metrics only; a message that is too short simply has none.

use bytes::Bytes;

use crate::rpc::{ByteOrder, Call, DataRepresentation, TransferSyntax};

/// Major and minor version of a request body. The body follows the size and the array's count (MS-RPCE 2.2.5, C706
/// 14.3.3), in 8 bytes with NDR and 16 with NDR64; the body itself is little-endian whatever the stub is.
pub(super) fn request_version(call: &Call) -> Option<(u16, u16)> {
    let offset = match call.syntax {
        TransferSyntax::Ndr => 8,
        TransferSyntax::Ndr64 => 16,
    };
    let words = call.stub.get(offset..)?.first_chunk::<4>()?;
    let [minor_low, minor_high, major_low, major_high] = *words;
    Some((
        u16::from_le_bytes([major_low, major_high]),
        u16::from_le_bytes([minor_low, minor_high]),
    ))
}

/// The return code behind a response's body.
pub(super) fn return_code(stub: &Bytes, drep: DataRepresentation) -> Option<u32> {
    let code = *stub.last_chunk::<4>()?;
    Some(match drep.order() {
        ByteOrder::Little => u32::from_le_bytes(code),
        ByteOrder::Big => u32::from_be_bytes(code),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::stub;

    fn call(syntax: TransferSyntax, body: &[u8]) -> Call {
        Call {
            call_id: 1,
            context_id: 0,
            opnum: 0,
            syntax,
            drep: DataRepresentation::LITTLE_ENDIAN,
            object: None,
            stub: stub::encode_request(syntax, ByteOrder::Little, body),
        }
    }

    #[test]
    fn reads_the_version_words_and_the_return_code_in_both_syntaxes() {
        for syntax in TransferSyntax::ALL {
            assert_eq!(request_version(&call(syntax, &[0, 0, 6, 0, 9, 9])), Some((6, 0)));
            assert_eq!(request_version(&call(syntax, &[0, 0])), None);
            for body in [Some(&[1u8, 2, 3][..]), None] {
                let response = stub::encode_response(syntax, ByteOrder::Little, body, 0xC004_F042);
                assert_eq!(
                    return_code(&response, DataRepresentation::LITTLE_ENDIAN),
                    Some(0xC004_F042)
                );
            }
        }
        let response = stub::encode_response(TransferSyntax::Ndr, ByteOrder::Big, None, 0xC004_F042);
        assert_eq!(
            return_code(&response, DataRepresentation::BIG_ENDIAN),
            Some(0xC004_F042)
        );
    }
}
