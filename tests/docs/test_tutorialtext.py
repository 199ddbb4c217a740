# SPDX-License-Identifier: Apache-2.0
"""Pages are read as their authors meant them, and what is unclear is refused."""

from __future__ import annotations

import pytest
from tutorialtext import Block, PageError, Picture, Step, parse_page

PAGE = """# Title

## One

```{.console .host}
$ ls \\
      out
a  b \\
   c
$ true
```

![Two windows](img/screen-two.png)

```{.console .guest0 .goes-on}
chgu0 login: charlie
> tail -F x
one

two
```

## Empty

## Three

```{.console .guest0}
three
^C
```

```{.console .host .not-run title="needs root"}
$ sudo reboot
```

```{.console .root}
# true
```

```{.console .own2}
# no prompt of this place
```
"""


def test_blocks_pictures_and_sections() -> None:
    one, three = parse_page(PAGE)
    assert (one.title, three.title) == ("One", "Three")
    assert one.items == (
        Block(5, "host", (Step(6, "$ ", "ls out", ("a  b c",)), Step(10, "$ ", "true", ())), False, ""),
        Picture(13, "screen", "screen-two.png"),
        Block(15, "guest0", (
            Step(16, "chgu0 login: ", "charlie", ()), Step(17, "> ", "tail -F x", ("one", "", "two"))
        ), True, ""),
    )  # fmt: skip
    assert three.items == (
        Block(27, "guest0", (Step(28, "", "", ("three",)), Step(29, "^", "^C", ())), False, ""),
        Block(32, "host", (Step(33, "$ ", "sudo reboot", ()),), False, "needs root"),
        Block(36, "root", (Step(37, "# ", "true", ()),), False, ""),
        Block(40, "own2", (Step(41, "", "", ("# no prompt of this place",)),), False, ""),
    )


@pytest.mark.parametrize(
    "text",
    [
        "```\n$ ls\n```",
        "```bash\nls\n```",
        "```{.console}\n$ ls\n```",
        "```{.console .moon}\n$ ls\n```",
        "```{.console .host .gone-on}\n$ ls\n```",
        "```{.console .host .not-run}\n$ ls\n```",
        '```{.console .host title="why"}\n$ ls\n```',
        "```{.console .host}\n```",
        "```{.console .host}\n$ ls",
        "![a picture](img/picture.png)",
    ],
)
def test_what_is_unclear_is_refused(text: str) -> None:
    with pytest.raises(PageError, match="line 1: "):
        parse_page(text)
