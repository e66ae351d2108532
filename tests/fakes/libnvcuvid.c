/* A libnvcuvid.so.1 that decodes nothing: FFmpeg's NVDEC runs on it, in the memory of libcuda.c.
 *
 * The n-th picture that is decoded, from 0, has luma 40 n + 2 x + y, u 100 + n + x and v 30 + n + y, of 8 bits that run
 * over; of 10 bits the same in the upper 8. Wider pictures than WIDEST are not supported.
 */
#include <stdint.h>
#include <stdlib.h>

#define WIDEST 640
#define PITCH 2048 /* bytes */

typedef unsigned long long Address;

struct capabilities {
    int codec, chroma;
    unsigned depth_minus_8, reserved[3];
    unsigned char supported, decoders;
    unsigned short formats;
    unsigned widest, highest, macroblocks;
    unsigned short narrowest, lowest;
};
struct creation {
    unsigned long width, height, surfaces;
    int codec, chroma;
    unsigned long flags, depth_minus_8;
};
struct picture {
    int width_in_blocks, height_in_blocks, surface;
};
struct decoder {
    unsigned long height;
    int deep, decoded, number[64]; /* by surface */
};

int cuvidGetDecoderCaps(struct capabilities* found) {
    found->supported = found->decoders = 1;
    found->formats = 3;
    found->widest = WIDEST;
    found->highest = 4096;
    found->macroblocks = 65536;
    found->narrowest = found->lowest = 16;
    return 0;
}
int cuvidCreateDecoder(struct decoder** decoder, const struct creation* wanted) {
    *decoder = calloc(1, sizeof **decoder);
    (*decoder)->height = wanted->height;
    (*decoder)->deep = wanted->depth_minus_8 > 0;
    return 0;
}
int cuvidDestroyDecoder(struct decoder* decoder) {
    free(decoder);
    return 0;
}
int cuvidDecodePicture(struct decoder* decoder, const struct picture* picture) {
    decoder->number[picture->surface] = decoder->decoded++;
    return 0;
}

static void put(const struct decoder* decoder, unsigned char* plane, unsigned long y, unsigned long x, uint8_t value) {
    if (decoder->deep)
        ((uint16_t*)(plane + y * PITCH))[x] = value << 8;
    else
        plane[y * PITCH + x] = value;
}
int cuvidMapVideoFrame64(struct decoder* decoder, int surface, Address* address, unsigned* pitch, void* parameters) {
    const unsigned long height = decoder->height, width = WIDEST;
    const int n = decoder->number[surface];
    unsigned char* luma = calloc(height * 3 / 2, PITCH);
    for (unsigned long y = 0; y < height; y++)
        for (unsigned long x = 0; x < width; x++) put(decoder, luma, y, x, 40 * n + 2 * x + y);
    for (unsigned long y = 0; y < height / 2; y++)
        for (unsigned long x = 0; x < width / 2; x++) {
            put(decoder, luma + height * PITCH, y, 2 * x, 100 + n + x);
            put(decoder, luma + height * PITCH, y, 2 * x + 1, 30 + n + y);
        }
    *address = (Address)luma;
    *pitch = PITCH;
    return 0;
}
int cuvidUnmapVideoFrame64(struct decoder* decoder, Address address) {
    free((void*)address);
    return 0;
}
