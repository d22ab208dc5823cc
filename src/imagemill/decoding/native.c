/* What Python cannot do fast enough: JPEGs decoded in part or by the batch, and an antialiased resize.
 *
 * Built where libjpeg-turbo's headers are; without it the same pixels come out of Python
 * (docs/decisions/0012-decoders-and-kernels.md). Nothing here is trusted to succeed: whatever libjpeg
 * only warns about counts as a failure, and the caller decodes that image another way, which also
 * finds the words for what is wrong with it.
 *
 * No global state; the interpreter's lock is released while pixels are worked on.
 */

#include "native.h"

#define MAX_SIDE 65535
#define MAX_PIXELS ((size_t)2 * 89478485) /* Pillow's limit */
#define MOST_FETCHED 4096 /* bytes: the processor fetches the rest of a larger image by itself */
#define MARGIN 2 /* columns that smooth chroma upsampling looks at beyond its own */

/* Decoding ------------------------------------------------------------------------------------ */

static void give_up(j_common_ptr info) { longjmp(((Errors *)info->err)->escape, 1); }

static void give_up_on_warnings(j_common_ptr info, int level) {
    if (level < 0) give_up(info);
}

static void say_nothing(j_common_ptr info) { (void)info; }

void prepare_errors(Errors *errors, struct jpeg_decompress_struct *info) {
    info->err = jpeg_std_error(&errors->base);
    errors->base.error_exit = give_up;
    errors->base.emit_message = give_up_on_warnings;
    errors->base.output_message = say_nothing;
}

/* Whether a JPEG has an APP1 segment (EXIF or XMP) before its first scan: it may lie on its side. */
static int may_be_turned(const unsigned char *data, size_t size) {
    size_t position = 2;
    while (position + 4 <= size && data[position] == 0xFF) {
        unsigned char kind = data[position + 1];
        if (kind == 0xE1) return 1;
        if (kind == 0xDA) return 0;
        position += kind == 0xFF ? 1 : 2 + ((size_t)data[position + 2] << 8 | data[position + 3]);
    }
    return 1;
}

/* Read the header and choose the output; 0 where the colours are not ours to convert. */
static int start(struct jpeg_decompress_struct *info, const unsigned char *data, size_t size,
                 int channels) {
    jpeg_mem_src(info, data, (unsigned long)size);
    if (jpeg_read_header(info, TRUE) != JPEG_HEADER_OK) return 0;
    if (info->num_components != 1 && info->num_components != 3) return 0;
    if (info->data_precision != 8) return 0;
    if ((size_t)info->image_height * info->image_width > MAX_PIXELS) return 0;
    info->out_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    return 1;
}

/* Images come in random order, so what follows in memory is not what is read next. */
void fetch_early(const unsigned char *data, size_t size) {
#ifdef __GNUC__
    if (size > MOST_FETCHED) size = MOST_FETCHED;
    for (size_t position = 0; position < size; position += 64)
        __builtin_prefetch(data + position);
#else
    (void)data, (void)size;
#endif
}

/* Decode images of one size into one block, those that are not done.
 *
 * Returns 0 if not even a handle could be had. */
static int decode_each(const Images *images, unsigned char *out, int height, int width,
                       int channels) {
    const unsigned char **datas = images->datas;
    const int64_t *sizes = images->sizes;
    const Py_ssize_t count = images->count;
    char *done = images->done;
    struct jpeg_decompress_struct info;
    Errors errors;
    volatile Py_ssize_t number = 0;
    const size_t row_bytes = (size_t)width * channels;
    memset(&info, 0, sizeof info);
    prepare_errors(&errors, &info);
    if (setjmp(errors.escape)) {
        /* An image failed: leave it and go on with the next. */
        if (info.mem == NULL) return 0;
        jpeg_abort_decompress(&info);
        number++;
    } else {
        jpeg_create_decompress(&info);
    }
    for (; number < count; number++) {
        if (done[number]) continue;
        if (number + 1 < count) fetch_early(datas[number + 1], (size_t)sizes[number + 1]);
        unsigned char *image = out + (size_t)number * height * row_bytes;
        const size_t size = (size_t)sizes[number];
        if (may_be_turned(datas[number], size) || !start(&info, datas[number], size, channels) ||
            (int)info.image_height != height || (int)info.image_width != width) {
            jpeg_abort_decompress(&info);
            continue;
        }
        jpeg_start_decompress(&info);
        while (info.output_scanline < info.output_height) {
            JSAMPROW rows[4];
            unsigned wanted = info.output_height - info.output_scanline;
            if (wanted > 4) wanted = 4;
            for (unsigned row = 0; row < wanted; row++)
                rows[row] = image + (info.output_scanline + row) * row_bytes;
            jpeg_read_scanlines(&info, rows, wanted);
        }
        jpeg_finish_decompress(&info);
        done[number] = 1;
    }
    jpeg_destroy_decompress(&info);
    return 1;
}

typedef struct {
    int top, left, height, width;
} Box;

/* Decode a box of an image, or of the image at 1/scale of its size; rows lie `*row_pixels` pixels apart, its first column is `*skip`.
 *
 * libjpeg leaves out rows, and columns by whole blocks. It takes the sides of what it decodes for the
 * sides of the image when it smooths chroma, so a few columns more are decoded. Returns 0 if the
 * image has to be decoded another way. */
static int decode_box(const unsigned char *data, size_t size, Box box, int scale, int channels,
                      unsigned char *out, size_t out_bytes, int *row_pixels, int *skip) {
    struct jpeg_decompress_struct info;
    Errors errors;
    memset(&info, 0, sizeof info);
    prepare_errors(&errors, &info);
    if (setjmp(errors.escape)) {
        if (info.mem != NULL) jpeg_destroy_decompress(&info);
        return 0;
    }
    jpeg_create_decompress(&info);
    int fits = start(&info, data, size, channels);
    if (fits) {
        info.scale_num = 1;
        info.scale_denom = (unsigned)scale;
        jpeg_calc_output_dimensions(&info);
        fits = (size_t)box.top + box.height <= info.output_height &&
               (size_t)box.left + box.width <= info.output_width;
    }
    if (!fits) {
        jpeg_destroy_decompress(&info);
        return 0;
    }
    jpeg_start_decompress(&info);
    JDIMENSION first = box.left > MARGIN ? (JDIMENSION)(box.left - MARGIN) : 0;
    JDIMENSION last = (JDIMENSION)(box.left + box.width + MARGIN);
    if (last > info.output_width) last = info.output_width;
    JDIMENSION columns = last - first;
    if (columns < info.output_width) jpeg_crop_scanline(&info, &first, &columns);
    size_t row_bytes = (size_t)columns * channels;
    if (row_bytes * box.height > out_bytes) {
        jpeg_destroy_decompress(&info);
        return 0;
    }
    if (box.top > 0) jpeg_skip_scanlines(&info, (JDIMENSION)box.top);
    const unsigned stop = (unsigned)(box.top + box.height);
    while (info.output_scanline < stop) {
        JSAMPROW rows[4];
        unsigned done = info.output_scanline - (unsigned)box.top;
        unsigned wanted = stop - info.output_scanline;
        if (wanted > 4) wanted = 4;
        for (unsigned row = 0; row < wanted; row++) rows[row] = out + (done + row) * row_bytes;
        jpeg_read_scanlines(&info, rows, wanted);
    }
    *row_pixels = (int)columns;
    *skip = box.left - (int)first;
    jpeg_destroy_decompress(&info);
    return 1;
}

/* Resizing ------------------------------------------------------------------------------------- */

/* Weights are fractions of 2^22: eight bits for a pixel and two to spare are left of 32. */
#define WEIGHT_BITS 22
#define HALF (1 << (WEIGHT_BITS - 1))

typedef struct {
    int *starts;      /* first source pixel of each target pixel */
    int *counts;      /* how many source pixels it has */
    int32_t *weights; /* `stride` for each target pixel, zero beyond its count */
    int stride;
    int most; /* the largest count */
} Taps;

static void free_taps(Taps *taps) {
    free(taps->starts);
    free(taps->counts);
    free(taps->weights);
}

/* The triangle filter, as wide as the shrinking asks for.
 *
 * Source: Pillow's precompute_coeffs and normalize_coeffs_8bpc for BILINEAR, in the same order of
 * operations: pixels are to be equal to Pillow's. */
static int make_taps(Taps *taps, int source, int target) {
    const double scale = (double)source / target, support = scale < 1 ? 1 : scale;
    const double narrow = 1.0 / support;
    const int stride = (int)support * 2 + 3;
    taps->stride = stride;
    taps->most = 0;
    taps->starts = malloc(sizeof(int) * (size_t)target);
    taps->counts = malloc(sizeof(int) * (size_t)target);
    taps->weights = calloc((size_t)target * stride, sizeof(int32_t));
    double *exact = malloc(sizeof(double) * (size_t)stride);
    const int made = taps->starts && taps->counts && taps->weights && exact;
    for (int to = 0; made && to < target; to++) {
        const double centre = (to + 0.5) * scale;
        int start = (int)(centre - support + 0.5), stop = (int)(centre + support + 0.5);
        if (start < 0) start = 0;
        if (stop > source) stop = source;
        double sum = 0;
        for (int tap = 0; tap < stop - start; tap++) {
            double distance = (tap + start - centre + 0.5) * narrow;
            if (distance < 0) distance = -distance;
            exact[tap] = distance < 1 ? 1 - distance : 0;
            sum += exact[tap];
        }
        int32_t *weights = taps->weights + (size_t)to * stride;
        for (int tap = 0; tap < stop - start; tap++)
            weights[tap] = (int32_t)(0.5 + exact[tap] / sum * (1 << WEIGHT_BITS));
        taps->starts[to] = start;
        taps->counts[to] = stop - start;
        if (stop - start > taps->most) taps->most = stop - start;
    }
    free(exact);
    if (!made) free_taps(taps);
    return made;
}

typedef int32_t Four __attribute__((vector_size(16)));

FOR_EACH_CPU
static void widen(int32_t *restrict out, const unsigned char *restrict row, int count) {
    for (int x = 0; x < count; x++) out[x] = row[x];
}

FOR_EACH_CPU
static void narrow(unsigned char *restrict out, const int32_t *restrict sums, int count) {
    for (int x = 0; x < count; x++) out[x] = (unsigned char)((sums[x] + HALF) >> WEIGHT_BITS);
}

/* Sums to whole levels, where they are. */
FOR_EACH_CPU
static void settle(int32_t *sums, int count) {
    for (int x = 0; x < count; x++) sums[x] = (sums[x] + HALF) >> WEIGHT_BITS;
}

FOR_EACH_CPU
static void add_row(int32_t *restrict sums, const unsigned char *restrict row, int32_t weight,
                    int count) {
    for (int x = 0; x < count; x++) sums[x] += row[x] * weight;
}

/* Two rows of three channels. Four lanes are worked on for three: the next pixel overwrites the last,
 * so the sums have room for a value more. Every pixel takes the same number of steps, since guessing
 * wrong about it would cost a processor more: the rows go on for `most` pixels of any value. */
FOR_EACH_CPU
static void across_three(int32_t *restrict upper_sums, int32_t *restrict lower_sums,
                         const int32_t *restrict upper, const int32_t *restrict lower,
                         const Taps *taps, int target) {
    const int most = taps->most;
    for (int to = 0; to < target; to++) {
        const int32_t *weights = taps->weights + (size_t)to * taps->stride;
        const size_t start = (size_t)taps->starts[to] * 3;
        Four above = {0, 0, 0, 0}, below = {0, 0, 0, 0};
        for (int tap = 0; tap < most; tap++) {
            Four one, other;
            memcpy(&one, upper + start + (size_t)tap * 3, sizeof one);
            memcpy(&other, lower + start + (size_t)tap * 3, sizeof other);
            above += one * weights[tap];
            below += other * weights[tap];
        }
        memcpy(upper_sums + (size_t)to * 3, &above, sizeof above);
        memcpy(lower_sums + (size_t)to * 3, &below, sizeof below);
    }
}

static void across_one(int32_t *restrict sums, const int32_t *restrict row, const Taps *taps,
                       int target) {
    for (int to = 0; to < target; to++) {
        const int32_t *weights = taps->weights + (size_t)to * taps->stride;
        int32_t sum = 0;
        for (int tap = 0; tap < taps->counts[to]; tap++)
            sum += row[taps->starts[to] + tap] * weights[tap];
        sums[to] = sum;
    }
}

typedef struct {
    const unsigned char *pixels;
    size_t row_bytes;
    int height, width, channels;
} Picture;

/* Memory of a resize: `rows` and `sums` hold two rows each, of the source's or the target's width;
 * `ring` holds the rows, already as wide as the target, that the next target row is made of. */
typedef struct {
    unsigned char *ring;
    int32_t *rows[2], *sums[2];
    int held;
} Workspace;

/* Across: two rows in `space->rows` become two narrower or wider ones. */
static void across_pair(Workspace *space, unsigned char *upper, unsigned char *lower,
                        const Taps *across, int out_width, int channels) {
    if (channels == 3) {
        across_three(space->sums[0], space->sums[1], space->rows[0], space->rows[1], across,
                     out_width);
    } else {
        across_one(space->sums[0], space->rows[0], across, out_width);
        across_one(space->sums[1], space->rows[1], across, out_width);
    }
    narrow(upper, space->sums[0], out_width * channels);
    narrow(lower, space->sums[1], out_width * channels);
}

/* Down: `count` values of target row `to`; source row r begins at rows + (r % held) * row_bytes. */
static void down_one(int32_t *sums, const unsigned char *rows, size_t row_bytes, int held,
                     const Taps *down, int to, int count) {
    memset(sums, 0, sizeof *sums * (size_t)count);
    for (int tap = 0; tap < down->counts[to]; tap++) {
        const size_t row = (size_t)((down->starts[to] + tap) % held);
        add_row(sums, rows + row * row_bytes, down->weights[(size_t)to * down->stride + tap], count);
    }
}

static void across_first(const Picture *from, unsigned char *out, int out_height, int out_width,
                         const Taps *across, const Taps *down, Workspace *space) {
    const int count = from->width * from->channels, out_count = out_width * from->channels;
    int ready = 0;
    for (int to = 0; to < out_height; to++) {
        for (; ready < down->starts[to] + down->counts[to]; ready += 2) {
            unsigned char *slots[2];
            for (int row = 0; row < 2; row++) {
                /* The last of an odd number of rows is paired with itself. */
                const int line = ready + row < from->height ? ready + row : ready;
                widen(space->rows[row], from->pixels + (size_t)line * from->row_bytes, count);
                slots[row] = space->ring + (size_t)((ready + row) % space->held) * out_count;
            }
            across_pair(space, slots[0], slots[1], across, out_width, from->channels);
        }
        down_one(space->sums[0], space->ring, (size_t)out_count, space->held, down, to, out_count);
        narrow(out + (size_t)to * out_count, space->sums[0], out_count);
    }
}

static void down_first(const Picture *from, unsigned char *out, int out_height, int out_width,
                       const Taps *across, const Taps *down, Workspace *space) {
    const int count = from->width * from->channels, out_count = out_width * from->channels;
    for (int to = 0; to < out_height; to += 2) {
        unsigned char *targets[2];
        for (int row = 0; row < 2; row++) {
            const int line = to + row < out_height ? to + row : to;
            down_one(space->rows[row], from->pixels, from->row_bytes, from->height, down, line,
                     count);
            settle(space->rows[row], count);
            targets[row] = out + (size_t)line * out_count;
        }
        across_pair(space, targets[0], targets[1], across, out_width, from->channels);
    }
}

/* In two steps with whole levels in between.
 *
 * Source: Pillow, which since version 13 goes down first where the height shrinks by much more than
 * the width, and before always across: a difference of a level. Returns 0 if there is no memory. */
static int resize(Picture from, unsigned char *out, int out_height, int out_width) {
    Taps across, down;
    if (!make_taps(&across, from.width, out_width)) return 0;
    if (!make_taps(&down, from.height, out_height)) {
        free_taps(&across);
        return 0;
    }
    const int wider = from.width > out_width ? from.width : out_width;
    const size_t room = ((size_t)wider + across.stride + 1) * from.channels;
    Workspace space = {.held = down.stride + 2};
    int32_t *values = calloc(4 * room, sizeof *values);
    space.ring = malloc((size_t)out_width * from.channels * (size_t)space.held);
    const int made = space.ring && values;
    if (made) {
        const int shorter = from.height > out_height &&
                            from.height - out_height > 2 * (from.width - out_width);
        for (int row = 0; row < 2; row++) {
            space.rows[row] = values + room * (size_t)row;
            space.sums[row] = values + room * (size_t)(2 + row);
        }
        (shorter ? down_first : across_first)(&from, out, out_height, out_width, &across, &down,
                                              &space);
    }
    free(space.ring);
    free(values);
    free_taps(&across);
    free_taps(&down);
    return made;
}

/* Python --------------------------------------------------------------------------------------- */

static int check_shape(int height, int width, int channels) {
    if (height > 0 && width > 0 && height <= MAX_SIDE && width <= MAX_SIDE &&
        (channels == 1 || channels == 3))
        return 1;
    PyErr_SetString(PyExc_ValueError, "sides must lie in 1..65535, channels must be 1 or 3");
    return 0;
}

/* What a batch is made of: image i is sizes[i] bytes at offsets[i] of buffers[numbers[i]]. */
typedef struct {
    Py_buffer *buffers, numbers, offsets, sizes, out;
    Py_ssize_t num_buffers, count;
    const unsigned char **starts;
    char *done;
} Batch;

static void release_batch(Batch *batch) {
    while (batch->num_buffers > 0) PyBuffer_Release(&batch->buffers[--batch->num_buffers]);
    PyBuffer_Release(&batch->numbers);
    PyBuffer_Release(&batch->offsets);
    PyBuffer_Release(&batch->sizes);
    PyBuffer_Release(&batch->out);
    free(batch->buffers);
    free(batch->starts);
    free(batch->done);
}

static int hold_buffers(Batch *batch, PyObject *buffers) {
    const Py_ssize_t wanted = PySequence_Size(buffers);
    if (wanted < 0) return 0;
    batch->buffers = calloc((size_t)wanted + 1, sizeof *batch->buffers);
    batch->starts = calloc((size_t)batch->count + 1, sizeof *batch->starts);
    batch->done = calloc((size_t)batch->count + 1, 1);
    if (!batch->buffers || !batch->starts || !batch->done) {
        PyErr_NoMemory();
        return 0;
    }
    while (batch->num_buffers < wanted) {
        PyObject *buffer = PySequence_GetItem(buffers, batch->num_buffers);
        if (buffer == NULL) return 0;
        const int refused =
            PyObject_GetBuffer(buffer, &batch->buffers[batch->num_buffers], PyBUF_SIMPLE);
        Py_DECREF(buffer); /* the view holds it */
        if (refused) return 0;
        batch->num_buffers++;
    }
    return 1;
}

/* Find each image in its buffer; 0 and an exception if one is not inside. */
static int find_images(Batch *batch) {
    const int32_t *numbers = batch->numbers.buf;
    const int64_t *offsets = batch->offsets.buf, *sizes = batch->sizes.buf;
    for (Py_ssize_t image = 0; image < batch->count; image++) {
        const int known = numbers[image] >= 0 && numbers[image] < batch->num_buffers;
        const int64_t length = known ? batch->buffers[numbers[image]].len : -1;
        if (sizes[image] < 0 || offsets[image] < 0 || offsets[image] > length ||
            sizes[image] > length - offsets[image]) {
            PyErr_SetString(PyExc_ValueError, "an image does not lie inside its buffer");
            return 0;
        }
        const unsigned char *buffer = batch->buffers[numbers[image]].buf;
        batch->starts[image] = buffer + offsets[image];
    }
    return 1;
}

static PyObject *positions_not_done(const Batch *batch) {
    PyObject *positions = PyList_New(0);
    for (Py_ssize_t image = 0; positions != NULL && image < batch->count; image++) {
        if (batch->done[image]) continue;
        PyObject *position = PyLong_FromSsize_t(image);
        if (position == NULL || PyList_Append(positions, position) < 0) Py_CLEAR(positions);
        Py_XDECREF(position);
    }
    return positions;
}

/* decode_batch(buffers, numbers, offsets, sizes, out, height, width, channels)
 * -> positions of the images not decoded */
static PyObject *decode_batch(PyObject *self, PyObject *arguments) {
    (void)self;
    PyObject *buffers, *result = NULL;
    Batch batch;
    memset(&batch, 0, sizeof batch);
    int height, width, channels;
    if (!PyArg_ParseTuple(arguments, "Oy*y*y*w*iii", &buffers, &batch.numbers, &batch.offsets,
                          &batch.sizes, &batch.out, &height, &width, &channels))
        return NULL;
    batch.count = batch.sizes.len / (Py_ssize_t)sizeof(int64_t);
    if (!check_shape(height, width, channels)) goto end;
    if (batch.offsets.len != batch.sizes.len ||
        batch.numbers.len / (Py_ssize_t)sizeof(int32_t) != batch.count ||
        batch.out.len / height / width / channels < batch.count) {
        PyErr_SetString(PyExc_ValueError, "the output is too small, or the frames do not match");
        goto end;
    }
    if (!hold_buffers(&batch, buffers) || !find_images(&batch)) goto end;
    int made;
    Py_BEGIN_ALLOW_THREADS
    const Images images = {batch.starts, batch.sizes.buf, batch.count, batch.done};
    decode_glued(&images, batch.out.buf, height, width, channels);
    made = decode_each(&images, batch.out.buf, height, width, channels);
    Py_END_ALLOW_THREADS
    result = made ? positions_not_done(&batch) : PyErr_NoMemory();
end:
    release_batch(&batch);
    return result;
}

/* decode_region(data, out, top, left, height, width, channels, scale) -> (row_pixels, skip) or None */
static PyObject *decode_region(PyObject *self, PyObject *arguments) {
    (void)self;
    Py_buffer data, out;
    Box box;
    int channels, scale;
    if (!PyArg_ParseTuple(arguments, "y*w*iiiiii", &data, &out, &box.top, &box.left, &box.height,
                          &box.width, &channels, &scale))
        return NULL;
    PyObject *result = NULL;
    if (check_shape(box.height, box.width, channels)) {
        if (box.top < 0 || box.left < 0 || box.top > MAX_SIDE || box.left > MAX_SIDE) {
            PyErr_SetString(PyExc_ValueError, "the box must start inside the image");
        } else if (scale != 1 && scale != 2 && scale != 4 && scale != 8) {
            PyErr_SetString(PyExc_ValueError, "the scale must be 1, 2, 4 or 8");
        } else {
            int decoded, row_pixels = 0, skip = 0;
            Py_BEGIN_ALLOW_THREADS
            decoded = decode_box(data.buf, (size_t)data.len, box, scale, channels, out.buf,
                                 (size_t)out.len, &row_pixels, &skip);
            Py_END_ALLOW_THREADS
            result = decoded ? Py_BuildValue("(ii)", row_pixels, skip) : Py_NewRef(Py_None);
        }
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&out);
    return result;
}

/* resize_antialiased(source, out): both uint8 [H, W, C]; rows of the source may lie apart */
static PyObject *resize_antialiased(PyObject *self, PyObject *arguments) {
    (void)self;
    PyObject *from, *to, *result = NULL;
    Py_buffer source, out;
    if (!PyArg_ParseTuple(arguments, "OO", &from, &to)) return NULL;
    if (PyObject_GetBuffer(from, &source, PyBUF_STRIDED_RO) < 0) return NULL;
    if (PyObject_GetBuffer(to, &out, PyBUF_ND | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&source);
        return NULL;
    }
    int shapes = source.ndim == 3 && out.ndim == 3 && source.itemsize == 1 && out.itemsize == 1 &&
                 source.shape[2] == out.shape[2] && source.strides[2] == 1 &&
                 source.strides[1] == source.shape[2] && source.strides[0] >= 0;
    if (!shapes) {
        PyErr_SetString(PyExc_ValueError, "expected uint8 [H, W, C] with pixels side by side");
    } else if (source.shape[0] > MAX_SIDE || source.shape[1] > MAX_SIDE ||
               out.shape[0] > MAX_SIDE || out.shape[1] > MAX_SIDE ||
               !check_shape((int)source.shape[0], (int)source.shape[1], (int)source.shape[2]) ||
               !check_shape((int)out.shape[0], (int)out.shape[1], (int)out.shape[2])) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "sides must lie in 1..65535");
    } else {
        const Picture picture = {source.buf, (size_t)source.strides[0], (int)source.shape[0],
                                 (int)source.shape[1], (int)source.shape[2]};
        int made;
        Py_BEGIN_ALLOW_THREADS
        made = resize(picture, out.buf, (int)out.shape[0], (int)out.shape[1]);
        Py_END_ALLOW_THREADS
        result = made ? Py_NewRef(Py_None) : PyErr_NoMemory();
    }
    PyBuffer_Release(&source);
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef methods[] = {
    {"decode_batch", decode_batch, METH_VARARGS, NULL},
    {"decode_region", decode_region, METH_VARARGS, NULL},
    {"resize_antialiased", resize_antialiased, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", NULL, 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
