/* What the files of the compiled part share. */

#ifndef IMAGEMILL_NATIVE_H
#define IMAGEMILL_NATIVE_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

/* Other libjpegs cannot decode a part of an image, older ones of this kind make mistakes in it. */
#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or newer is needed"
#endif

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__)
#define FOR_EACH_CPU __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

typedef struct {
    struct jpeg_error_mgr base; /* first: libjpeg knows only this part */
    jmp_buf escape;
} Errors;

/* Jump to `escape` on errors and on warnings. */
void prepare_errors(Errors *errors, struct jpeg_decompress_struct *info);

/* Ask the processor for an image that is read soon. */
void fetch_early(const unsigned char *data, size_t size);

/* Encoded images; done[i] is set to 1 for each that is decoded. */
typedef struct {
    const unsigned char **datas;
    const int64_t *sizes;
    Py_ssize_t count;
    char *done;
} Images;

/* Images with the same header, up to 256. */
typedef struct {
    Py_ssize_t count;
    Py_ssize_t numbers[256];
    const unsigned char *scans[256];
    size_t sizes[256];
} Group;

/* Decode those images of one size into one block that can be glued together (glued.c). */
void decode_glued(const Images *images, unsigned char *out, int height, int width, int channels);

#endif
