"""Everything is in setup.cfg, but for what an sdist holds."""

from setuptools import setup
from setuptools.command import egg_info

egg_info.manifest_maker.template = '.ci/MANIFEST.in'
setup()
