"""The list of published versions, from the tags of a clone."""

from __future__ import annotations

import json
import subprocess

import versions


def test_releases_are_listed_the_newest_first_and_what_is_no_release_is_not():
    listed = versions.entries(["v3.0.0", "v3.10.0", "v3.2.1", "nightly", "v4.0.0rc1", "3.0.1"], "https://x.io/en/")
    assert [each["version"] for each in listed] == ["latest", "3.10.0", "3.2.1", "3.0.0"]
    assert [each["url"] for each in listed][:2] == ["https://x.io/en/latest/", "https://x.io/en/v3.10.0/"]
    assert [each["version"] for each in listed if each.get("preferred")] == ["3.10.0"]
    assert [each["version"] for each in versions.entries([], "https://x.io/")] == ["latest"]


def test_every_version_asks_the_main_branch_for_the_list(tmp_path):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "x"], ["tag", "v3.1.0"]):
        subprocess.run([*git, *command], check=True)
    written = tmp_path / "out" / "versions.json"
    for canonical, published, match in (("v3.1.0/", "v3.1.0", "3.1.0"), ("latest/", "latest", "latest")):
        found = versions.switcher(f"https://x.io/en/{canonical}", published, tmp_path, written)
        assert found == {"json_url": f"https://x.io/en/latest/{versions.SWITCHER}", "version_match": match}
    assert [each["version"] for each in json.loads(written.read_text())] == ["latest", "3.1.0"]


def test_pages_without_an_address_have_no_list(tmp_path):
    assert versions.switcher("", "", tmp_path, tmp_path / "x.json") is None
    assert versions.tags(tmp_path / "nowhere") == []
    assert not (tmp_path / "x.json").exists()
