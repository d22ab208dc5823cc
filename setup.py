"""The compiled part, which is optional: without a compiler or libjpeg's headers Python does it."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "imagemill.decoding._native",
            ["src/imagemill/decoding/native.c", "src/imagemill/decoding/glued.c"],
            depends=["src/imagemill/decoding/native.h"],
            libraries=["jpeg"],
            extra_compile_args=["-O3"],
            py_limited_api=True,
            optional=True,
        )
    ]
)
