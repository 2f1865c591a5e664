"""Passwords that this program makes, so that nothing secret is ever read back from the cluster."""

import pulumi
import pulumi_random as random


def password(
    name: str, rotation: int, opts: pulumi.ResourceOptions, length: int = 32
) -> pulumi.Output[str]:
    """A letter and `length` random letters and digits. Another `rotation` gives another password.

    The rotation is part of the resource's name: a caller that must still present the previous
    password asks for it by its number. The leading letter has two reasons: Shlink turns a value of
    digits into an integer and drops its leading zeros (parseEnvVar in shlinkio/shlink-config), and
    Vault refuses a chosen token that looks like one of its own (`hvs.`).
    """
    password_resource = random.RandomPassword(
        f"{name}-{rotation}", length=length, special=False, opts=opts
    )
    return pulumi.Output.concat("p", password_resource.result)
