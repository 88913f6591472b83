"""What accounts say, and what of it counts as different."""

from __future__ import annotations

import pytest

from rosey_deploy.provision import buckets
from rosey_deploy.provision.accounts import AREAS, Wanted, differences, storage_claims
from rosey_deploy.provision.contexts import Contexts, context_folder
from rosey_deploy.provision.jwt import claims_of, encode
from rosey_deploy.provision.keys import kept_key, key_of, new_key
from rosey_deploy.provision.users import issue, plugin_permissions, read_credentials
from rosey_kvstore.errors import InvalidRequest
from rosey_rowstore.engine.model import Limits
from rosey_rowstore.plugins import Plugin

STORAGE, ACCOUNT = new_key("account"), new_key("account")


def wanted(**members):
    given = {"subject": "storage", "account": ACCOUNT.public, "signer": ACCOUNT.public, "storage": STORAGE}
    plugin = members.pop("plugin", Plugin(name="quotes"))
    return Wanted(plugin=plugin, **{**given, **members})


def test_a_plugin_imports_its_own_and_nothing_else():
    """Every subject names the plugin; only the inspector has one more."""
    own = [item["subject"] for item in wanted().claims()["imports"]]
    assert own == [f"storage.v1.quotes.{area}.>" for area in AREAS]
    inspector = wanted(plugin=Plugin(name="quotes", inspector=True)).claims()["imports"]
    assert [item["subject"] for item in inspector] == [*own, "storage.admin.>"]
    for item in inspector:
        token = claims_of(item["token"])
        assert (token["iss"], token["sub"]) == (STORAGE.public, ACCOUNT.public)
        assert token["nats"]["subject"] == item["subject"]


def test_exports_are_private_and_few():
    """Four areas and the inspector's, each by token; events are nobody's."""
    exports = {item["subject"]: item for item in storage_claims("storage")["exports"]}
    assert set(exports) == {*(f"storage.v1.*.{area}.>" for area in AREAS), "storage.admin.>"}
    assert all(item["token_req"] for item in exports.values())


def test_the_time_of_tokens_is_no_difference():
    """Claims made a second time are the same; a limit, an import or a revocation is not."""
    before = wanted().claims()
    assert differences(wanted().claims(), before) == []
    larger = Plugin(name="quotes", limits=Limits(bucket_size=1 << 30))
    told = differences(wanted(plugin=larger).claims(), before)
    assert [word.split()[0] for word in told] == ["disk_max_stream_bytes", "disk_storage"]
    assert differences(wanted(revoked_until=5).claims(), before) == ["revocations"]
    assert differences(wanted(shut_out="UABC").claims(), before) == ["revocations", "tags"]
    assert differences(wanted(storage=new_key("account")).claims(), before) == ["imports"]
    inspector = wanted(plugin=Plugin(name="quotes", inspector=True)).claims()
    assert "imports" in differences(inspector, before)


def test_a_lost_key_becomes_a_signing_key():
    """The account stays; its users are signed by the new key."""
    claims = wanted(signer=STORAGE.public).claims()
    assert claims["signing_keys"] == [STORAGE.public]
    assert "signing_keys" not in wanted().claims()


def test_tokens_are_what_was_said():
    """What is encoded is read back; what is none is refused."""
    token = encode(STORAGE, ACCOUNT.public, "x", {"type": "account"}, issued_at=7)
    claims = claims_of(token)
    assert (claims["iat"], claims["iss"], claims["sub"]) == (7, STORAGE.public, ACCOUNT.public)
    for bad in ("", "a.b", "a.b.c", token.split(".")[1]):
        with pytest.raises(ValueError, match=r"."):
            claims_of(bad)


def test_keys_keep_to_themselves(tmp_path):
    """A seed is in no repr, comes back from its file, and another kind's is refused."""
    path = tmp_path / "keys" / "a.nk"
    assert kept_key(path, "account", make=False) is None
    key = kept_key(path, "account", make=True)
    assert key == kept_key(path, "account", make=False)
    assert key.seed not in repr(key)
    with pytest.raises(InvalidRequest, match="no seed of an operator"):
        kept_key(path, "operator", make=False)
    with pytest.raises(ValueError, match="no nkey seed") as error:
        key_of("SOSECRET")
    assert "SOSECRET" not in str(error.value)


def test_credentials_know_their_faults(tmp_path):
    """Another signer, account or list, or an earlier time than a revocation: each is told."""
    path = tmp_path / "c" / "x.creds"
    listed = plugin_permissions("quotes", "storage", kv=True, inspector=False)
    issue(path, "x", signer=ACCOUNT, account=ACCOUNT.public, permissions=listed, after=10)
    found = read_credentials(path)
    good = {"issuers": {ACCOUNT.public}, "account": ACCOUNT.public, "permissions": listed, "after": 10}
    assert found.fault(**good) is None
    assert "signed" in found.fault(**{**good, "issuers": {STORAGE.public}})
    assert "revoked" in found.fault(**{**good, "after": found.issued_at})
    wider = plugin_permissions("quotes", "storage", kv=True, inspector=True)
    assert "permissions" in found.fault(**{**good, "permissions": wider})
    path.write_text("something else")
    assert read_credentials(path) is None


def test_the_list_of_a_plugin_is_narrow():
    """Nothing but its bucket and its subject; no wildcard stands where a name belongs."""
    listed = plugin_permissions("quotes", "storage", kv=True, inspector=False)
    assert all("plugin_quotes" in subject or ".quotes." in subject for subject in listed.publish)
    assert listed.subscribe == ("_INBOX.>", "kv_changes.plugin_quotes.>")
    assert plugin_permissions("quotes", "storage", kv=False, inspector=False).publish == (
        "storage.v1.quotes.>",
    )


def test_what_a_server_adds_to_a_bucket_is_no_difference():
    """Members of a newer server, and its metadata, are left alone."""
    config = buckets.wanted_config(Plugin(name="quotes"), replicas=1)
    found = {**config, "newer": 1, "metadata": {**config["metadata"], "_nats.level": "2"}}
    assert buckets.differences(config, found) == []
    assert buckets.differences(config, {**found, "max_bytes": 1 << 20}) == ["max_bytes 1 MiB → 16 MiB"]
    assert buckets.differences(config, {**found, "metadata": {}}) == ["metadata"]
    assert [buckets.shown_size(n) for n in (-1, 5, 2048, 3 << 29)] == ["unlimited", "5 B", "2 KiB", "1.5 GiB"]


def test_only_our_contexts_are_touched(tmp_path):
    """Somebody's own is neither changed nor removed; members that were added to ours stay."""
    contexts = Contexts(tmp_path, "nats://a")
    (tmp_path / "mine.json").write_text('{"description": "mine"}')
    with pytest.raises(InvalidRequest, match="another nats context"):
        contexts.fault("mine", tmp_path / "x", "x")
    assert not contexts.remove("mine")
    assert contexts.fault("ours", tmp_path / "x", "x") == "is missing"
    contexts.write("ours", tmp_path / "x", "x")
    assert contexts.fault("ours", tmp_path / "x", "x") is None
    assert "creds" in contexts.fault("ours", tmp_path / "y", "x")
    assert contexts.remove("ours")
    assert context_folder({"XDG_CONFIG_HOME": "/c"}).as_posix() == "/c/nats/context"
