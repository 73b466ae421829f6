"""Resuming in the middle of an index of half a billion samples, and what logging and saving cost a step."""

import argparse

from bench_harness import Row


def add(parser: argparse.ArgumentParser) -> None: ...


def run(args: argparse.Namespace) -> list[Row]:
    return []
