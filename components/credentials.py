"""Passwords that this program makes itself, so that nothing secret is ever read back from the cluster."""

import pulumi
import pulumi_random as random


def password(
    name: str, rotation: int, opts: pulumi.ResourceOptions, length: int = 32
) -> pulumi.Output[str]:
    """A password of `length` random letters and digits after a leading letter; raising `rotation` makes another one.

    The rotation is part of the resource's name, so a caller that must present the password before this one (redis.py) asks for it
    by its number. The leading letter: Shlink turns a value of digits into an integer and loses its leading zeros
    (parseEnvVar in shlinkio/shlink-config), and Vault refuses a chosen root token that looks like one of its own (`hvs.`).
    """
    made = random.RandomPassword(f"{name}-{rotation}", length=length, special=False, opts=opts)
    return pulumi.Output.concat("p", made.result)
