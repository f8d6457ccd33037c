//! The cluster's certificates and keys, made anew at each start: an authority, one certificate for each part, and the administrator's.

use std::{
    fs,
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::place::{NODE, Place, SERVICE_ADDRESS};

/// Who a certificate is for: Kubernetes reads the user from the common name and the groups from the organisations.
const SUBJECTS: &[(&str, &str, &str)] = &[
    ("admin", "hemostat-dev", "system:masters"),
    ("apiserver-to-kubelet", "kube-apiserver-to-kubelet", "system:masters"),
    ("controller-manager", "system:kube-controller-manager", ""),
    ("scheduler", "system:kube-scheduler", ""),
];

/// Makes everything below `folder` (mode 0700): `NAME.crt`, `NAME.key`, `NAME.kubeconfig`, `ca.crt`, `service-account.key`.
pub(super) fn make(folder: &Path, place: Place) -> Result<()> {
    let (server, address) = (place.api_server(), place.node_address());
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("protect {}", folder.display()))?;
    let mut params = named("hemostat-dev-cluster", "")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().context("make the authority's key")?;
    let authority = params.self_signed(&key).context("make the authority")?.pem();
    write(&folder.join("ca.crt"), &authority)?;
    write(&folder.join("ca.key"), &key.serialize_pem())?;
    let issuer = Issuer::new(params, key);
    for (file, user, group) in SUBJECTS {
        issue(folder, file, named(user, group)?, &issuer)?;
        write_kubeconfig(folder, file, &server, &authority)?;
    }
    let mut api = named("kube-apiserver", "")?;
    api.subject_alt_names = vec![ip(&address)?, ip(SERVICE_ADDRESS)?, ip("127.0.0.1")?];
    for name in ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"] {
        api.subject_alt_names.push(dns(name)?);
    }
    issue(folder, "apiserver", api, &issuer)?;
    let mut node = named(&format!("system:node:{NODE}"), "system:nodes")?;
    node.subject_alt_names = vec![ip(&address)?, dns(NODE)?];
    issue(folder, "kubelet", node, &issuer)?;
    write_kubeconfig(folder, "kubelet", &server, &authority)?;
    let signer = KeyPair::generate().context("make the key of service accounts")?;
    write(&folder.join("service-account.key"), &signer.serialize_pem())?;
    write(&folder.join("service-account.pub"), &signer.public_key_pem())
}

/// The administrator's kubeconfig.
pub(super) fn kubeconfig(folder: &Path) -> PathBuf {
    folder.join("admin.kubeconfig")
}

fn named(user: &str, group: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new()).context("begin a certificate")?;
    params.distinguished_name.push(DnType::CommonName, user);
    if !group.is_empty() {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    Ok(params)
}

fn ip(address: &str) -> Result<SanType> {
    let address: IpAddr = address.parse().with_context(|| format!("{address} is an address"))?;
    Ok(SanType::IpAddress(address))
}

fn dns(name: &str) -> Result<SanType> {
    Ok(SanType::DnsName(name.try_into().with_context(|| format!("{name} is a name"))?))
}

fn issue(folder: &Path, file: &str, params: CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<()> {
    let key = KeyPair::generate().with_context(|| format!("make the key of {file}"))?;
    let certificate =
        params.signed_by(&key, issuer).with_context(|| format!("make the certificate of {file}"))?;
    write(&folder.join(format!("{file}.crt")), &certificate.pem())?;
    write(&folder.join(format!("{file}.key")), &key.serialize_pem())
}

/// With everything inside, so that it can be carried elsewhere.
fn write_kubeconfig(folder: &Path, file: &str, server: &str, authority: &str) -> Result<()> {
    let read = |ending: &str| {
        let path = folder.join(format!("{file}.{ending}"));
        fs::read(&path).with_context(|| format!("read {}", path.display()))
    };
    let config = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "hemostat", "cluster": {"server": server, "certificate-authority-data": base64(authority.as_bytes())}}],
        "users": [{"name": file, "user": {"client-certificate-data": base64(&read("crt")?), "client-key-data": base64(&read("key")?)}}],
        "contexts": [{"name": "hemostat", "context": {"cluster": "hemostat", "user": file}}],
        "current-context": "hemostat",
    });
    // JSON is YAML.
    write(&folder.join(format!("{file}.kubeconfig")), &format!("{config:#}\n"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    use std::io::Write as _;
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", path.display()))
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let mut bits = 0_usize;
        for at in 0..3 {
            bits = bits << 8 | usize::from(three.get(at).copied().unwrap_or(0));
        }
        for at in 0..4 {
            let letter = LETTERS[bits >> (18 - 6 * at) & 63];
            text.push(if at <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn the_examples_of_the_standard() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
