//! The schema table, its accessor and the documentation say the same.

use std::path::Path;

use hemostat_detect::schema::{
    Category, DraftValue, Drafted, Field, FieldValue, Kind, Taxonomy, fields_markdown,
};

fn one(text: &str) -> DraftValue {
    DraftValue::One(text.into())
}

/// A value that the field can have in a drafted event, where the draft can set it.
fn sample(field: Field, category: Category) -> Option<DraftValue> {
    Some(match field {
        Field::UtcTime => one("2026-01-31T23:59:58.000Z"),
        Field::User | Field::ParentUser => one("root"),
        Field::Capabilities | Field::GainedCapabilities => DraftValue::Many(vec!["CAP_SYS_ADMIN".into()]),
        Field::ExeBacking => one("memfd"),
        Field::Exposure => one("behind_listener"),
        Field::Stdin | Field::Stdout | Field::Stderr => one("socket"),
        Field::Workload => one("container"),
        Field::InContainer | Field::SetUid | Field::SetGid | Field::Executable => one("true"),
        Field::ContainerRuntime => one("podman"),
        Field::NamespaceCall => one("setns"),
        Field::ChangedNamespaces => DraftValue::Many(vec!["mnt".into(), "net".into()]),
        Field::FileOperation => match category {
            Category::FileEvent => one("write"),
            Category::FileLink => one("hardlink"),
            _ => return None,
        },
        Field::OpenFlags if category == Category::FileEvent => {
            DraftValue::Many(vec!["O_WRONLY".into(), "O_TRUNC".into()])
        }
        Field::OpenFlags => DraftValue::Many(vec!["O_CLOEXEC".into()]),
        Field::FilePermissions => one("4755"),
        Field::DestinationIp | Field::SourceIp => one("2001:db8::7"),
        Field::Protocol => one("udp"),
        Field::QueryType => one("TXT"),
        Field::BpfCommand => one("BPF_PROG_LOAD"),
        Field::BpfProgramType => one("kprobe"),
        Field::PtraceRequest => one("PTRACE_SEIZE"),
        Field::MemfdFlags => DraftValue::Many(vec!["MFD_EXEC".into()]),
        Field::MountFlags => DraftValue::Many(vec!["MS_BIND".into(), "MS_REC".into()]),
        Field::AncestorImages | Field::Args => DraftValue::Many(vec!["/bin/a".into(), "b".into()]),
        // Follow from the category.
        Field::AuditType
        | Field::AuditSyscall
        | Field::AuditNameType
        | Field::AuditSuccess
        | Field::Initiated
        | Field::DestinationIsIpv6
        | Field::SourceIsIpv6 => return None,
        Field::AuditName if !matches!(category, Category::ProcessCreation | Category::FileDelete) => {
            return None;
        }
        Field::AuthSourceIp | Field::FlowExporter => one("2001:db8::7"),
        _ if field.spec().kind == Kind::Number => one("77"),
        _ if field.spec().kind == Kind::Bool => one("true"),
        _ if field.spec().kind == Kind::List && category.class().is_none() => {
            DraftValue::Many(vec!["a".into(), "B".into()])
        }
        _ => one("/some/Text"),
    })
}

#[test]
fn every_field_can_be_set_and_read_in_every_category_that_has_it() {
    let mut checked = 0;
    for category in Category::ALL.iter().copied() {
        for field in category.fields() {
            let Some(value) = sample(field, category) else { continue };
            let mut written = vec![(field, value)];
            if matches!(field, Field::SourcePort | Field::SourceIp) && category.class().is_some() {
                written.push((Field::SourceIp, one("2001:db8::7")));
            }
            let drafted = Drafted::new(category, &written)
                .unwrap_or_else(|error| panic!("{} in {}: {error}", field.name(), category.name()));
            assert_eq!(drafted.view().category(), category, "{}", field.name());
            checked += 1;
        }
    }
    assert!(checked > 1000, "{checked}");
}

#[test]
fn the_table_knows_every_field_that_the_accessor_gives() {
    for category in Category::ALL.iter().copied().filter(|category| category.class().is_some()) {
        let fields = [(Field::Image, one("/bin/a")), (Field::ParentImage, one("/bin/b"))];
        let drafted = Drafted::new(category, &fields).unwrap();
        for field in Field::ALL {
            let absent = matches!(drafted.view().get(*field), FieldValue::Absent);
            assert!(absent || field.exists_in(category), "{} gives {}", category.name(), field.name());
        }
    }
}

#[test]
fn paths_into_objects_may_be_marked_as_lists() {
    let image = Some(Field::PodImages);
    for name in [
        "requestObject.spec.containers.image",
        "requestObject.spec.containers[].image",
        "requestObject.spec.containers{}.image",
        "requestObject.spec.containers.0.image",
        "requestObject.spec.initContainers[*].image",
        "requestObject.spec.template.spec.containers[].image",
        "requestObject.spec.jobTemplate.spec.template.spec.containers.image",
    ] {
        assert_eq!(Taxonomy::Sigma.resolve(name), image, "{name}");
    }
    assert_eq!(Taxonomy::Sigma.resolve("requestObject.spec.nonsense"), None);
}

#[test]
fn records_have_only_the_fields_of_their_category() {
    for category in Category::ALL.iter().copied().filter(|category| category.class().is_none()) {
        let drafted = Drafted::new(category, &[(Field::RecordId, one("r"))]).unwrap();
        assert_eq!(drafted.view().category(), category);
        for field in Field::ALL.iter().filter(|field| !matches!(field, Field::RecordId | Field::UtcTime)) {
            assert!(drafted.view().get(*field).is_absent(), "{} in {}", field.name(), category.name());
        }
    }
    let ends = [(Field::DestinationIp, one("::ffff:10.0.0.1")), (Field::SourceIp, one("2001:db8::1"))];
    let drafted = Drafted::new(Category::VpcFlow, &ends[1..]).unwrap();
    assert!(matches!(drafted.view().get(Field::SourceIsIpv6), FieldValue::Bool(true)));
    let drafted = Drafted::new(Category::VpcFlow, &[(Field::DestinationPort, one("x"))]).unwrap_err();
    assert!(drafted.to_string().contains("a whole number"), "{drafted}");
}

#[test]
fn names_are_unique_and_resolve() {
    for taxonomy in [Taxonomy::Sigma, Taxonomy::Auditd] {
        for field in Field::ALL {
            let spec = field.spec();
            assert_eq!(spec.field, *field);
            let auditd: &[&str] = if taxonomy == Taxonomy::Auditd { spec.auditd } else { &[] };
            // In rules for auditd its own names come first: `type` is there a record's type and not a Keycloak event's.
            let is_auditd = |name: &&&str| Field::ALL.iter().any(|one| one.spec().auditd.contains(*name));
            let own = [spec.name];
            let shared = own.iter().chain(spec.aliases);
            let shared = shared.filter(|name| taxonomy == Taxonomy::Sigma || !is_auditd(name));
            for name in shared.chain(auditd) {
                let resolved = taxonomy.resolve(name).unwrap();
                assert!(resolved == *field, "`{name}` is {} and {}", resolved.name(), field.name());
            }
        }
    }
    assert_eq!(Taxonomy::Sigma.resolve("exe"), None);
    assert_eq!(Taxonomy::Auditd.resolve("exe"), Some(Field::Image));
}

/// `HEMOSTAT_WRITE_DOCS=1 cargo test -p hemostat-detect --test schema` writes the page anew.
#[test]
fn the_page_of_fields_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fields.md");
    if std::env::var_os("HEMOSTAT_WRITE_DOCS").is_some() {
        std::fs::write(&path, fields_markdown()).unwrap();
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        page == fields_markdown(),
        "docs/fields.md is old: HEMOSTAT_WRITE_DOCS=1 cargo test -p hemostat-detect --test schema"
    );
}
