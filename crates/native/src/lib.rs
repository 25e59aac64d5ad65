//! `yuntai._native`: what Python must compute exactly as the data plane does. Every function is a thin call into
//! `yuntai-proto`; there is no logic here.

use pyo3::exceptions::{PyPermissionError, PyValueError};
use pyo3::prelude::*;
use yuntai_proto::auth::{self, Rights, Token};
use yuntai_proto::frame::{Header, Kind, HEADER_BYTES};

/// The header's fields in the order of the wire: kind, flags, body_len, data_len, request_id, volume, generation,
/// sequence, chunk, layer, block, blocks.
type Fields = (u8, u16, u32, u32, u64, u64, u64, u64, u32, u32, u16, u16);

#[pymodule(gil_used = false)]
mod _native {
    use super::*;

    /// CRC-32C (Castagnoli) of some bytes.
    #[pyfunction]
    fn crc32c(data: &[u8]) -> u32 {
        yuntai_proto::block_crc(data)
    }

    /// The 64 bytes of a header, checksum included.
    #[pyfunction]
    fn encode_header(fields: Fields) -> PyResult<[u8; HEADER_BYTES]> {
        let (kind, flags, body_len, data_len, request_id, volume, generation, sequence, chunk, layer, block, blocks) =
            fields;
        let kind =
            Kind::try_from(kind).map_err(|kind| PyValueError::new_err(format!("frame kind {kind} is not known")))?;
        let header = Header {
            kind,
            flags,
            body_len,
            data_len,
            request_id,
            volume,
            generation,
            sequence,
            chunk,
            layer,
            block,
            blocks,
        };
        Ok(header.encode())
    }

    /// The fields of a header; ValueError if it is not one, or above the limits.
    #[pyfunction]
    fn decode_header(data: &[u8]) -> PyResult<Fields> {
        let bytes: &[u8; HEADER_BYTES] =
            data.try_into().map_err(|_| PyValueError::new_err(format!("a header has {HEADER_BYTES} bytes")))?;
        let h = Header::decode(bytes).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok((
            h.kind as u8,
            h.flags,
            h.body_len,
            h.data_len,
            h.request_id,
            h.volume,
            h.generation,
            h.sequence,
            h.chunk,
            h.layer,
            h.block,
            h.blocks,
        ))
    }

    /// The proof of one side of a handshake, in hex.
    #[pyfunction]
    fn proof(secret: &[u8], role: &str, server_nonce: &str, client_nonce: &str, client: &str) -> String {
        auth::proof(secret, role, server_nonce, client_nonce, client)
    }

    /// Check a proof in constant time; PermissionError if it is wrong.
    #[pyfunction]
    fn check_proof(
        secret: &[u8],
        role: &str,
        server_nonce: &str,
        client_nonce: &str,
        client: &str,
        mac: &str,
    ) -> PyResult<()> {
        auth::check_proof(secret, role, server_nonce, client_nonce, client, mac)
            .map_err(|error| PyPermissionError::new_err(error.to_string()))
    }

    /// Sign a token for one volume; generation 0 makes a token that may only read.
    #[pyfunction]
    fn sign_token(secret: &[u8], volume: u64, generation: u64, expires_unix_s: u64) -> String {
        let rights = if generation == 0 { Rights::Read } else { Rights::Write };
        auth::sign_token(secret, &Token { volume, rights, generation, expires_unix_s })
    }

    /// (volume, generation, expires_unix_s) of a token; PermissionError if it is forged or too old.
    #[pyfunction]
    fn check_token(secret: &[u8], token: &str, now_unix_s: u64) -> PyResult<(u64, u64, u64)> {
        let token = auth::check_token(secret, token, now_unix_s)
            .map_err(|error| PyPermissionError::new_err(error.to_string()))?;
        Ok((token.volume, token.generation, token.expires_unix_s))
    }

    /// How this module was built, for bug reports.
    #[pyfunction]
    fn build_info() -> String {
        let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
        format!("{} {profile}", env!("CARGO_PKG_VERSION"))
    }
}
