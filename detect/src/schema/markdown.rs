//! docs/fields.md, made from the table.

use std::fmt::Write;

use crate::schema::{Category, CategorySet, Field, Kind};

/// What the table's cells have no room for.
const NOTES: &str = "\
## What the values are, exactly

- **Scripts**: of `./deploy.sh` the kernel executes the interpreter named after `#!`. `Image` is that interpreter (`/usr/bin/dash`), `CommandLine` and
  `Args` begin with it and hold the script's path, and `RequestedImage` is what the caller gave to exec: the script. A rule for a script asks for
  `RequestedImage|endswith` or `CommandLine|contains`, not for `Image`.
- **Links**: `Image` and `TargetFilename` are what the kernel resolved. `/bin/sh` shows as `/usr/bin/dash` where `/bin` is a link to `/usr/bin` and `sh` a
  link to `dash`; all of busybox's tools show as `/bin/busybox`, and which one it was stands in `Comm`, in the first of `Args` and in `RequestedImage`.
  Rules use `|endswith: /name` with all the names a program has.
- **Removed programs**: an executable that has no name any more keeps the path it had, without ` (deleted)`; `ExeBacking` is `deleted` (or `memfd`).
- **Kernel modules**: modprobe and insmod are links to `kmod` on most distributions, so `Image` is `/usr/bin/kmod` and `Comm` is `modprobe`. `driver_load`
  events have the module's name or file in `ImageLoaded`, whoever loaded it.
- **Unix sockets**: network events are of TCP, UDP and other IP sockets. A connection to a unix socket (`/var/run/docker.sock`) is none of them; rules see
  the program and its arguments, and of a socket made by bind its file (`file_event`).
- **Kin**: `ParentImage` and `ParentCommandLine` are the parent's, `GrandparentImage` that of its parent, and `AncestorImages` all from the parent upwards as
  far as they are known: the parent is the first of them. In a *rule test* they are not filled in from each other: `AncestorImages` does not
  follow from `ParentImage`; write both where a rule asks for both.
";

/// The page. A test compares it with the file.
#[must_use]
pub fn fields_markdown() -> String {
    let mut page = String::from(
        "# Fields\n\nMade from the table in detect/src/schema/field.rs by `detect::schema::fields_markdown`; a test compares them.\n\n\
         A field that an event does not have is absent: only `null` and `exists: false` match it. Numbers, addresses and times are \
         compared as their usual text where a rule gives a text, so `DestinationPort|startswith: '44'` and \
         `DestinationIp|startswith: '10.'` work. On a list a test holds if it holds for one element.\n\n\
         `service: auditd` rules may use the names in the third column: they see the same events as the records that auditd would \
         write. Keywords look into the fields marked with ¶.\n\n\
         ## Categories\n\n| category | fed by |\n| --- | --- |\n",
    );
    for category in Category::ALL {
        let source = category
            .class()
            .map_or_else(|| source_of(*category).to_owned(), |class| format!("kernel ({class:?})"));
        let _ = writeln!(page, "| `{}` | {source} |", category.name());
    }
    page.push_str("\n## Fields of every kernel event\n\n");
    page.push_str("| field | other names | auditd | type | what |\n| --- | --- | --- | --- | --- |\n");
    for field in Field::ALL.iter().copied().filter(|field| kernel_wide(*field)) {
        let _ = writeln!(page, "{}", row(field));
    }
    page.push_str("\n## Fields of some kernel events\n\n| field | other names | auditd | type | what | only in |\n| --- | --- | --- | --- | --- | --- |\n");
    for field in Field::ALL.iter().copied().filter(|field| !kernel_wide(*field) && of_kernel(*field)) {
        let only = field.spec().categories.intersection(CategorySet::kernel());
        let _ = writeln!(page, "{} {only} |", row(field));
    }
    records(&mut page);
    page.push('\n');
    page.push_str(NOTES);
    page
}

/// What other sources tell, one table for each.
fn records(page: &mut String) {
    page.push_str(
        "\n## Fields of records\n\nWhat other sources than the kernel tell has no process, and none of the fields above but those named here. A field is \
         named as the source's own log names it where public rules do so, and alike for all where rules are written for any login or any \
         flow. In a path into a Kubernetes object marks of lists may be written or left out (`containers[].image`, `containers.image`), and a \
         pod template's path (`requestObject.spec.template.spec.containers.image`) is the pod's: the field holds both.\n",
    );
    let kinds = [
        ("Kubernetes audit", &[Category::KubernetesAudit][..]),
        (
            "Logins, whatever tells them",
            &[Category::Sshd, Category::Sudo, Category::Pam, Category::Authentication],
        ),
        ("Okta", &[Category::Okta]),
        ("Keycloak", &[Category::Keycloak]),
        ("Entra ID sign-ins", &[Category::Entra]),
        ("AWS CloudTrail", &[Category::CloudTrail]),
        ("Flows", &[Category::HubbleFlow, Category::VpcFlow, Category::Flow]),
    ];
    let mut shown: Vec<Field> = vec![];
    for (title, categories) in kinds {
        let _ = write!(
            page,
            "\n### {title}\n\n| field | other names | type | what | only in |\n| --- | --- | --- | --- | --- |\n"
        );
        let set = CategorySet::of(categories);
        for field in Field::ALL.iter().copied() {
            let spec = field.spec();
            if spec.categories.intersection(set).is_empty() || shown.contains(&field) {
                continue;
            }
            shown.push(field);
            let only: CategorySet =
                spec.categories.iter().filter(|category| category.class().is_none()).collect();
            let _ = writeln!(
                page,
                "| `{}` | {} | {} | {} | {only} |",
                spec.name,
                names(spec.aliases),
                kind(spec.kind),
                spec.doc
            );
        }
    }
}

fn source_of(category: Category) -> &'static str {
    match category {
        Category::KubernetesAudit => "the API server's audit log (`--source kubernetes-audit=PATH`)",
        Category::Sshd | Category::Sudo | Category::Pam => {
            "syslog or journald (`--source auth=PATH`, `--source journal=PATH`)"
        }
        Category::Okta => "Okta's System Log (`--source okta=PATH`)",
        Category::Keycloak => "Keycloak's events (`--source keycloak=PATH`)",
        Category::Entra => "Entra ID's sign-in logs (`--source entra=PATH`)",
        Category::HubbleFlow => "Cilium Hubble's export (`--source hubble=PATH`)",
        Category::VpcFlow => "AWS VPC flow logs (`--source vpc-flow=PATH`)",
        Category::Authentication => {
            "OCSF (`--source ocsf=PATH`) and security events (`--source security-events=…`)"
        }
        Category::Flow => {
            "OCSF (`--source ocsf=PATH`), NetFlow and IPFIX (`--source netflow=udp://…`), GCP (`--source gcp-flow=PATH`)"
        }
        Category::CloudTrail => "AWS CloudTrail (`--source cloudtrail=PATH`)",
        _ => "",
    }
}

fn of_kernel(field: Field) -> bool {
    !field.spec().categories.intersection(CategorySet::kernel()).is_empty()
}

fn kernel_wide(field: Field) -> bool {
    Category::ALL.iter().all(|category| category.class().is_none() || field.exists_in(*category))
}

fn row(field: Field) -> String {
    let spec = field.spec();
    format!(
        "| `{}` | {} | {} | {} | {} |",
        spec.name,
        names(spec.aliases),
        names(spec.auditd),
        kind(spec.kind),
        spec.doc
    )
}

fn names(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Keyword => "text ¶",
        Kind::Number => "number",
        Kind::Bool => "truth value",
        Kind::Address => "address",
        Kind::Time => "time",
        Kind::List => "list",
    }
}
