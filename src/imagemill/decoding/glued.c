/* Tiny JPEGs by the batch: those with the same header are glued into one tall image.
 *
 * Reading a header, building Huffman tables and starting up costs a 32x32 image as much as its pixels.
 * Images of one data set mostly share every byte of their headers; then the scans of many, with a
 * restart marker after each, are the scan of one image as wide and as tall as all of them together.
 * Restart markers make the coder forget what it knew, so each scan decodes as it would alone.
 *
 * libjpeg gives the planes as they are stored. Smooth upsampling of chroma would look across the border
 * between two images, so it is done here, image by image, and so is the conversion to RGB; both with
 * libjpeg's own arithmetic (jdsample.c, h2v2_fancy_upsample; jdcolor.c), to the same bytes.
 *
 * Whatever is not as it should be (a marker inside a scan, a warning) leaves its whole group to the
 * caller, which decodes image by image and finds out which one it is.
 */

#include "native.h"

#define MOST_HEADERS 4        /* different ones tried in a batch */
#define MOST_GLUED 256        /* images */
#define MOST_PIXELS (128 * 128) /* of an image: a larger one gains nothing */
/* With so many bytes for each block ahead, libjpeg reads an image that is alone by its faster loop,
 * which takes no notice of stray bytes at the end; a glued one would be refused for them. */
#define FAST_BYTES 512
#define TALLEST 65500         /* JPEG_MAX_DIMENSION */

typedef struct {
    size_t size;       /* bytes before the scan */
    size_t height_at;  /* where the height stands */
    size_t scan_at;    /* where the marker SOS stands */
    int components;
    int chroma_halved; /* in both directions */
    int mcus;          /* in an image */
    size_t too_long;   /* bytes from the scan on, from which on it decodes alone */
} Header;

typedef struct {
    unsigned char *stream;  /* the glued image */
    unsigned char *luma, *chroma[2]; /* planes of one image */
    unsigned char *smooth[2];        /* chroma, as large as luma */
    uint16_t *sums;                  /* a row of chroma, with one more on each side */
} Room;

static int two_bytes(const unsigned char *at) { return at[0] << 8 | at[1]; }

/* The frame: eight bits, the given size, and grey, 4:4:4 or 4:2:0. */
static int read_frame(Header *header, const unsigned char *body, size_t length, int height, int width) {
    if (length < 8 || body[0] != 8 || two_bytes(body + 1) != height || two_bytes(body + 3) != width)
        return 0;
    header->components = body[5];
    if (header->components != 1 && header->components != 3) return 0;
    if (length != 6 + 3 * (size_t)header->components) return 0;
    const int first = body[7];
    if (first != 0x11 && !(first == 0x22 && header->components == 3)) return 0;
    for (int component = 1; component < header->components; component++)
        if (body[7 + 3 * component] != 0x11) return 0;
    header->chroma_halved = first == 0x22;
    const int side = header->chroma_halved ? 16 : 8;
    if (height % side || width % side) return 0;
    header->mcus = (height / side) * (width / side);
    const int blocks = header->components == 1 ? 1 : header->chroma_halved ? 6 : 3;
    header->too_long = (size_t)FAST_BYTES * blocks;
    return 1;
}

/* Everything up to the scan; 0 where gluing is not for this image. */
static int read_header(Header *header, const unsigned char *data, size_t size, int height, int width) {
    size_t at = 2;
    memset(header, 0, sizeof *header);
    if (size < 4 || data[0] != 0xFF || data[1] != 0xD8) return 0;
    while (at + 4 <= size && data[at] == 0xFF) {
        const unsigned char kind = data[at + 1];
        const size_t length = (size_t)two_bytes(data + at + 2);
        if (length < 2 || at + 2 + length > size) return 0;
        const unsigned char *body = data + at + 4;
        if (kind == 0xC0) {
            if (header->components || !read_frame(header, body, length - 2, height, width)) return 0;
            header->height_at = at + 5;
        } else if (kind == 0xDA) {
            header->scan_at = at;
            header->size = at + 2 + length;
            return header->components && length - 2 == 4 + 2 * (size_t)header->components &&
                   body[0] == header->components;
        } else if (kind == 0xE1 || !(kind == 0xC4 || kind == 0xDB || kind == 0xFE ||
                                     (kind >= 0xE0 && kind <= 0xEF))) {
            return 0; /* it may lie on its side (APP1), or is of another kind */
        }
        at += 2 + length;
    }
    return 0;
}

/* Bytes of the scan, if nothing but the end of the image follows it; 0 otherwise. */
static size_t scan_size(const unsigned char *scan, size_t size) {
    const unsigned char *at = scan, *end = scan + size;
    while (at < end && (at = memchr(at, 0xFF, (size_t)(end - at))) != NULL && at + 1 < end) {
        if (at[1] == 0xD9) return (size_t)(at - scan);
        if (at[1] != 0) return 0;
        at += 2;
    }
    return 0;
}

static int make_room(Room *room, size_t stream_bytes, size_t pixels, int width) {
    memset(room, 0, sizeof *room);
    room->stream = malloc(stream_bytes);
    room->luma = malloc(5 * pixels);
    room->sums = malloc(sizeof *room->sums * ((size_t)width / 2 + 2));
    if (!room->stream || !room->luma || !room->sums) return 0;
    for (int plane = 0; plane < 2; plane++) {
        room->chroma[plane] = room->luma + (1 + (size_t)plane) * pixels;
        room->smooth[plane] = room->luma + (3 + (size_t)plane) * pixels;
    }
    return 1;
}

static void free_room(Room *room) {
    free(room->stream);
    free(room->luma);
    free(room->sums);
}

/* A row of chroma, twice as wide: `near` is the row itself, `far` the one it is mixed with.
 *
 * Source: libjpeg's triangle filter, 3/4 of the nearer and 1/4 of the further in both directions. */
FOR_EACH_CPU
static void smooth_row(unsigned char *restrict out, const unsigned char *restrict near,
                       const unsigned char *restrict far, uint16_t *restrict sums, int half) {
    for (int x = 0; x < half; x++) sums[x + 1] = (uint16_t)(near[x] * 3 + far[x]);
    sums[0] = sums[1];
    sums[half + 1] = sums[half];
    for (int x = 0; x < half; x++) {
        out[2 * x] = (unsigned char)((sums[x + 1] * 3 + sums[x] + 8) >> 4);
        out[2 * x + 1] = (unsigned char)((sums[x + 1] * 3 + sums[x + 2] + 7) >> 4);
    }
}

static void smooth_plane(unsigned char *out, const unsigned char *plane, uint16_t *sums, int height,
                         int width) {
    const int tall = height / 2, wide = width / 2;
    for (int row = 0; row < height; row++) {
        const int near = row / 2;
        int far = row % 2 ? near + 1 : near - 1;
        if (far < 0) far = 0;
        if (far >= tall) far = tall - 1;
        smooth_row(out + (size_t)row * width, plane + (size_t)near * wide,
                   plane + (size_t)far * wide, sums, wide);
    }
}

/* Fractions of 2^16, as in libjpeg's FIX(). */
#define RED_OF_CR 91881
#define BLUE_OF_CB 116130
#define GREEN_OF_CR 46802
#define GREEN_OF_CB 22554
#define HALF_BIT 32768

static inline unsigned char within(int32_t value) {
    return (unsigned char)(value < 0 ? 0 : value > 255 ? 255 : value);
}

FOR_EACH_CPU
static void to_rgb(unsigned char *restrict out, const unsigned char *restrict luma,
                   const unsigned char *restrict blue, const unsigned char *restrict red,
                   size_t count) {
    for (size_t pixel = 0; pixel < count; pixel++) {
        const int32_t y = luma[pixel], cb = blue[pixel] - 128, cr = red[pixel] - 128;
        out[3 * pixel] = within(y + ((RED_OF_CR * cr + HALF_BIT) >> 16));
        out[3 * pixel + 1] =
            within(y + ((-GREEN_OF_CB * cb + HALF_BIT - GREEN_OF_CR * cr) >> 16));
        out[3 * pixel + 2] = within(y + ((BLUE_OF_CB * cb + HALF_BIT) >> 16));
    }
}

/* The planes of one image to its pixels. */
static void finish_image(const Header *header, const Room *room, unsigned char *out, int height,
                         int width, int channels) {
    const size_t pixels = (size_t)height * width;
    if (channels == 1) {
        memcpy(out, room->luma, pixels);
    } else if (header->components == 1) {
        for (size_t pixel = 0; pixel < pixels; pixel++)
            memset(out + 3 * pixel, room->luma[pixel], 3);
    } else {
        unsigned char *const *planes = room->chroma;
        if (header->chroma_halved) {
            for (int plane = 0; plane < 2; plane++)
                smooth_plane(room->smooth[plane], room->chroma[plane], room->sums, height, width);
            planes = room->smooth;
        }
        to_rgb(out, room->luma, planes[0], planes[1], pixels);
    }
}

/* Read the next image's planes. */
static void read_planes(struct jpeg_decompress_struct *info, const Header *header, const Room *room,
                        int height, int width) {
    const int step = header->chroma_halved ? 16 : 8;
    const int chroma_width = header->chroma_halved ? width / 2 : width;
    JSAMPROW luma[16], blue[8], red[8];
    JSAMPARRAY planes[3] = {luma, blue, red};
    for (int top = 0; top < height; top += step) {
        const int chroma_top = header->chroma_halved ? top / 2 : top;
        for (int row = 0; row < step; row++) luma[row] = room->luma + (size_t)(top + row) * width;
        for (int row = 0; row < 8; row++) {
            blue[row] = room->chroma[0] + (size_t)(chroma_top + row) * chroma_width;
            red[row] = room->chroma[1] + (size_t)(chroma_top + row) * chroma_width;
        }
        jpeg_read_raw_data(info, planes, (JDIMENSION)step);
    }
}

/* The glued image: header with a new height, a restart interval, scans and markers. */
static size_t write_stream(unsigned char *stream, const Header *header, const Group *group,
                           const unsigned char *model, int height) {
    unsigned char *to = stream;
    const int tall = height * (int)group->count;
    memcpy(to, model, header->scan_at);
    to[header->height_at] = (unsigned char)(tall >> 8);
    to[header->height_at + 1] = (unsigned char)tall;
    to += header->scan_at;
    const unsigned char interval[] = {0xFF, 0xDD, 0, 4, (unsigned char)(header->mcus >> 8),
                                      (unsigned char)header->mcus};
    memcpy(to, interval, sizeof interval);
    to += sizeof interval;
    memcpy(to, model + header->scan_at, header->size - header->scan_at);
    to += header->size - header->scan_at;
    for (Py_ssize_t image = 0; image < group->count; image++) {
        memcpy(to, group->scans[image], group->sizes[image]);
        to += group->sizes[image];
        *to++ = 0xFF;
        *to++ = image + 1 < group->count ? (unsigned char)(0xD0 + image % 8) : 0xD9;
    }
    return (size_t)(to - stream);
}

/* Decode a group; 0 if anything at all was wrong with it. */
static int decode_group(const Header *header, const Group *group, const unsigned char *model,
                        unsigned char *out, int height, int width, int channels) {
    const size_t pixels = (size_t)height * width;
    size_t bytes = header->size + 6;
    for (Py_ssize_t image = 0; image < group->count; image++) bytes += group->sizes[image] + 2;
    Room room;
    struct jpeg_decompress_struct info;
    Errors errors;
    memset(&info, 0, sizeof info);
    if (!make_room(&room, bytes, pixels, width)) {
        free_room(&room);
        return 0;
    }
    const size_t size = write_stream(room.stream, header, group, model, height);
    prepare_errors(&errors, &info);
    if (setjmp(errors.escape)) {
        if (info.mem != NULL) jpeg_destroy_decompress(&info);
        free_room(&room);
        return 0;
    }
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, room.stream, (unsigned long)size);
    if (jpeg_read_header(&info, TRUE) == JPEG_HEADER_OK &&
        info.jpeg_color_space == (header->components == 1 ? JCS_GRAYSCALE : JCS_YCbCr)) {
        info.out_color_space = info.jpeg_color_space;
        info.raw_data_out = TRUE;
        jpeg_start_decompress(&info);
        for (Py_ssize_t image = 0; image < group->count; image++) {
            read_planes(&info, header, &room, height, width);
            finish_image(header, &room, out + (size_t)group->numbers[image] * pixels * channels,
                         height, width, channels);
        }
        jpeg_finish_decompress(&info);
    }
    const int decoded = info.raw_data_out;
    jpeg_destroy_decompress(&info);
    free_room(&room);
    return decoded;
}

/* The next images, from `first` on, that have the header of image `model` and a plain scan. */
static Py_ssize_t gather(Group *group, const Header *header, const Images *images, Py_ssize_t model,
                         Py_ssize_t first, Py_ssize_t most) {
    const unsigned char *wanted = images->datas[model];
    Py_ssize_t image = first;
    for (group->count = 0; image < images->count && group->count < most; image++) {
        const unsigned char *data = images->datas[image];
        const size_t size = (size_t)images->sizes[image];
        if (image + 1 < images->count)
            fetch_early(images->datas[image + 1], (size_t)images->sizes[image + 1]);
        if (images->done[image] || size <= header->size ||
            size - header->size >= header->too_long || memcmp(data, wanted, header->size))
            continue;
        const size_t scan = scan_size(data + header->size, size - header->size);
        if (scan == 0) continue;
        group->numbers[group->count] = image;
        group->scans[group->count] = data + header->size;
        group->sizes[group->count++] = scan;
    }
    return image;
}

void decode_glued(const Images *images, unsigned char *out, int height, int width, int channels) {
    if ((size_t)height * width > MOST_PIXELS) return;
    Group group;
    Py_ssize_t most = TALLEST / height < MOST_GLUED ? TALLEST / height : MOST_GLUED;
    Py_ssize_t model = 0;
    for (int tried = 0; tried < MOST_HEADERS && model < images->count; tried++, model++) {
        Header header;
        while (model < images->count && images->done[model]) model++;
        if (model == images->count ||
            !read_header(&header, images->datas[model], (size_t)images->sizes[model], height, width))
            continue;
        for (Py_ssize_t next = model; next < images->count;) {
            next = gather(&group, &header, images, model, next, most);
            if (group.count < 2 || !decode_group(&header, &group, images->datas[model], out, height,
                                                 width, channels))
                continue;
            for (Py_ssize_t image = 0; image < group.count; image++)
                images->done[group.numbers[image]] = 1;
        }
    }
}
