"""Prints the oldest declared version of each dependency, as pip constraints."""

import pathlib
import re
import tomllib

_PROJECT = pathlib.Path(__file__).parent.parent / "pyproject.toml"

if __name__ == "__main__":
  project = tomllib.loads(_PROJECT.read_text())["project"]
  extras = project["optional-dependencies"]
  for requirement in [*project["dependencies"], *extras["parquet"]]:
    print(re.sub(">=", "==", requirement))
