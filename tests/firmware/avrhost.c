/* Runs the firmware's .hex file in simavr: voltages from a file on the ADC pins, the serial port in a file or on a
 * pseudo-terminal. What simavr 1.6 does otherwise than the chip is put right here; see "Like the chip".
 *
 *   avrhost [options] firmware.hex
 *     -a FILE    voltages in mV, int16 little endian, rows of one value per pin from A0 on; starts over at its end
 *     -c N       values in a row (1)          -r HZ      rows in a second (1000)
 *     -t S       end after so many seconds of the board's time
 *     -k S:TEXT  send TEXT to the board then  -R S       press its reset button then; both in order, up to 64
 *     -e FILE    what the EEPROM holds: read at the start where it exists, written at the end
 *     -o FILE    write there what the board sends
 *     -p LINK    link to a pseudo-terminal with the board; time stands still until somebody opens it, and opening
 *                resets the board, as the DTR line of an Uno does
 *     -x SPEED   board's seconds in one of ours (0: as fast as it goes)
 *
 * A reader who is slow makes the board's time wait, so nothing depends on how busy the machine is. SIGTERM unplugs it.
 * At the end a line of JSON says what happened.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <simavr/avr_adc.h>
#include <simavr/avr_eeprom.h>
#include <simavr/avr_uart.h>
#include <simavr/sim_avr.h>
#include <simavr/sim_hex.h>
#include <simavr/sim_io.h>

enum { HZ = 16000000, VREF_MV = 5000, SLICE = HZ / 1000, EVENTS = 64, EEPROM = 1024 };
enum { UCSR0A = 0xC0, UCSR0B = 0xC1, UBRR0L = 0xC4, UBRR0H = 0xC5, ADCSRA = 0x7A, SMCR = 0x53 }; /* data addresses */
enum { U2X = 1 << 1, TXEN = 1 << 3, ADEN = 1 << 7, ADSC = 1 << 6, SLEEP_MODE = 0x0E };

typedef struct {
    double at_s;
    const char *text; /* NULL: reset */
} event_t;

static avr_t *avr;
static avr_uart_t *uart;
static avr_irq_t *adc_irq, *uart_in;
static avr_cycle_count_t began; /* when row 0 was on the pins */

static int16_t *millivolts;
static size_t rows, columns = 1;
static double rows_hz = 1000;
static uint64_t conversions;

static uint8_t sent[4096];
static size_t n_sent;
static uint64_t all_sent;
static FILE *record;
static int pty = -1;
static bool is_open;

static char heard[256]; /* bytes on their way to the board */
static size_t n_heard;
static bool may_hear = true;

static volatile sig_atomic_t unplugged;

static void unplug(int number) {
    (void)number;
    unplugged = 1;
}

static void fail(const char *what) {
    fprintf(stderr, "avrhost: %s: %s\n", what, errno ? strerror(errno) : "cannot be used");
    exit(1);
}

static double board_s(void) {
    return (double)(avr->cycle - began) / HZ;
}

static double our_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void wait_s(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

/* ---- Voltages ---- */

static void load_millivolts(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        fail(path);
    rows = (size_t)ftell(file) / (2 * columns);
    rewind(file);
    millivolts = malloc(2 * columns * rows + 1);
    if (!rows || !millivolts || fread(millivolts, 2 * columns, rows, file) != rows)
        fail(path);
    fclose(file);
}

/* A conversion begins: put on the pin what is there now. simavr takes the full scale for 1023 steps where the chip has
 * 1024, so it is given the lowest voltage that it turns into the chip's code. */
static void on_conversion(struct avr_irq_t *irq, uint32_t value, void *unused) {
    (void)irq, (void)unused;
    union {
        uint32_t value;
        avr_adc_mux_t mux;
    } asked = {.value = value};
    conversions++;
    if (asked.mux.kind != ADC_MUX_SINGLE)
        return;
    size_t pin = asked.mux.src;
    int32_t mv = 0;
    if (pin < columns && rows)
        mv = millivolts[(size_t)(board_s() * rows_hz) % rows * columns + pin];
    int32_t code = mv < 0 ? 0 : mv * 1024 / VREF_MV > 1023 ? 1023 : mv * 1024 / VREF_MV;
    avr_raise_irq(adc_irq + ADC_IRQ_ADC0 + pin, (uint32_t)(code * VREF_MV + 1022) / 1023);
}

/* ---- Like the chip ---- */

/* A byte takes ten bits; simavr counts eleven, and does not see double speed that is chosen after the divider. */
static void time_bytes(void) {
    unsigned divider = avr->data[UBRR0L] | avr->data[UBRR0H] << 8;
    if (avr->data[UCSR0B] & TXEN)
        uart->cycles_per_byte = 10 * (avr->data[UCSR0A] & U2X ? 8 : 16) * (divider + 1);
}

/* Falling asleep into Idle starts a conversion where the ADC is on; simavr's does not. simavr adds the time slept by
 * itself, and asks to sleep again until something wakes it. */
static bool sleeps;

static void on_sleep(avr_t *board, avr_cycle_count_t cycles) {
    (void)cycles;
    uint8_t adc = board->data[ADCSRA];
    if (!sleeps && !(board->data[SMCR] & SLEEP_MODE) && (adc & ADEN) && !(adc & ADSC)) {
        avr_io_addr_t io = AVR_DATA_TO_IO(ADCSRA);
        board->io[io].w.c(board, ADCSRA, adc | ADSC, board->io[io].w.param);
    }
    sleeps = true;
}

/* ---- Serial port ---- */

static void on_byte(struct avr_irq_t *irq, uint32_t value, void *unused) {
    (void)irq, (void)unused;
    time_bytes();
    all_sent++;
    if (n_sent < sizeof sent)
        sent[n_sent++] = (uint8_t)value;
}

static void on_may_hear(struct avr_irq_t *irq, uint32_t value, void *yes) {
    (void)irq, (void)value;
    may_hear = yes != NULL;
}

static void say(const char *bytes, size_t n) {
    for (size_t i = 0; i < n && n_heard < sizeof heard; i++)
        heard[n_heard++] = bytes[i];
}

/* One byte in each slice: slower than the line is, and never more than the board's receiver holds. */
static void let_hear(void) {
    if (n_heard && may_hear) {
        uint8_t byte = (uint8_t)heard[0];
        memmove(heard, heard + 1, --n_heard);
        avr_raise_irq(uart_in, byte);
    }
}

static void pass_on(void) {
    if (record)
        fwrite(sent, 1, n_sent, record);
    for (size_t done = 0; is_open && done < n_sent && !unplugged;) {
        ssize_t n = write(pty, sent + done, n_sent - done);
        if (n > 0) {
            done += (size_t)n;
            continue;
        }
        struct pollfd wait = {pty, POLLOUT, 0};
        if (errno != EAGAIN || poll(&wait, 1, 50) < 0 || wait.revents & POLLHUP)
            break;
    }
    n_sent = 0;
}

static void open_pty(const char *link) {
    int slave;
    char name[64];
    struct termios raw;
    if (openpty(&pty, &slave, name, NULL, NULL))
        fail("openpty");
    tcgetattr(slave, &raw);
    cfmakeraw(&raw); /* else it would echo to the board what the board says */
    tcsetattr(slave, TCSANOW, &raw);
    fcntl(pty, F_SETFL, O_NONBLOCK);
    close(slave); /* from now on a hang-up says that nobody has it open */
    unlink(link);
    if (symlink(name, link))
        fail(link);
}

/* Return whether there is a reader; reset the board for a new one, and start its time for the first. */
static bool look_at_pty(void) {
    struct pollfd look = {pty, POLLIN, 0};
    poll(&look, 1, 0);
    bool open = !(look.revents & POLLHUP);
    if (open && !is_open) {
        static bool before;
        wait_s(0.05); /* as a bootloader does, so that opening is over when the first bytes come */
        avr_reset(avr);
        n_heard = n_sent = 0;
        if (!before)
            began = avr->cycle;
        before = true;
    }
    is_open = open;
    if (open && look.revents & POLLIN) {
        char bytes[64];
        ssize_t n = read(pty, bytes, sizeof bytes);
        if (n > 0)
            say(bytes, (size_t)n);
    }
    return open;
}

/* ---- EEPROM ---- */

static void load_eeprom(const char *path) {
    uint8_t bytes[EEPROM];
    FILE *file = fopen(path, "rb");
    if (!file)
        return;
    avr_eeprom_desc_t all = {.ee = bytes, .offset = 0, .size = (uint32_t)fread(bytes, 1, EEPROM, file)};
    fclose(file);
    avr_ioctl(avr, AVR_IOCTL_EEPROM_SET, &all);
}

static void save_eeprom(const char *path) {
    avr_eeprom_desc_t all = {.ee = NULL, .offset = 0, .size = EEPROM};
    avr_ioctl(avr, AVR_IOCTL_EEPROM_GET, &all);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(all.ee, 1, EEPROM, file) != EEPROM || fclose(file))
        fail(path);
}

/* ---- The board ---- */

static void make_board(const char *path) {
    uint32_t size, base;
    uint8_t *bytes = read_ihex_file(path, &size, &base);
    avr = avr_make_mcu_by_name("atmega328p");
    if (!bytes || !avr)
        fail(path);
    avr_init(avr);
    avr->frequency = HZ;
    avr->log = LOG_ERROR;
    avr->vcc = avr->avcc = avr->aref = VREF_MV;
    avr->sleep = on_sleep;
    memcpy(avr->flash + base, bytes, size);
    avr->codeend = base + size;
    free(bytes);
}

static void wire_board(void) {
    for (avr_io_t *io = avr->io_port; io; io = io->next)
        if (!strcmp(io->kind, "uart") && ((avr_uart_t *)io)->name == '0')
            uart = (avr_uart_t *)io;
    uint32_t flags = 0; /* neither print nor doze by itself */
    avr_ioctl(avr, AVR_IOCTL_UART_SET_FLAGS('0'), &flags);
    avr_irq_t *serial = avr_io_getirq(avr, AVR_IOCTL_UART_GETIRQ('0'), 0);
    uart_in = serial + UART_IRQ_INPUT;
    avr_irq_register_notify(serial + UART_IRQ_OUTPUT, on_byte, NULL);
    avr_irq_register_notify(serial + UART_IRQ_OUT_XON, on_may_hear, &may_hear);
    avr_irq_register_notify(serial + UART_IRQ_OUT_XOFF, on_may_hear, NULL);
    adc_irq = avr_io_getirq(avr, AVR_IOCTL_ADC_GETIRQ, 0);
    avr_irq_register_notify(adc_irq + ADC_IRQ_OUT_TRIGGER, on_conversion, NULL);
}

static void happen(const event_t *event) {
    if (event->text) {
        say(event->text, strlen(event->text));
    } else {
        avr_reset(avr);
        n_heard = 0;
        may_hear = true;
    }
}

/* Sleep as long as the board is ahead of our clock; do not hurry after time that was lost. */
static void keep_pace(double speed) {
    static double from_s = -1, from_board_s;
    double now_s = our_s(), ahead_s = from_s + (board_s() - from_board_s) / speed - now_s;
    if (from_s < 0 || ahead_s < -0.1) {
        from_s = now_s;
        from_board_s = board_s();
    } else if (ahead_s > 0) {
        wait_s(ahead_s);
    }
}

int main(int argc, char **argv) {
    static event_t events[EVENTS];
    size_t n_events = 0, next_event = 0;
    const char *volts = NULL, *link = NULL, *eeprom = NULL;
    double end_s = 0, speed = 0;
    char *rest;
    for (int option; (option = getopt(argc, argv, "a:c:r:t:k:R:e:o:p:x:")) != -1;) {
        switch (option) {
        case 'a': volts = optarg; break;
        case 'c': columns = (size_t)atoi(optarg); break;
        case 'r': rows_hz = atof(optarg); break;
        case 't': end_s = atof(optarg); break;
        case 'k':
        case 'R':
            if (n_events == EVENTS)
                fail("too many events");
            events[n_events].at_s = strtod(optarg, &rest);
            events[n_events++].text = option == 'k' ? rest + 1 : NULL;
            break;
        case 'e': eeprom = optarg; break;
        case 'o':
            if (!(record = fopen(optarg, "wb")))
                fail(optarg);
            break;
        case 'p': link = optarg; break;
        case 'x': speed = atof(optarg); break;
        default: return 2;
        }
    }
    if (optind + 1 != argc || !columns)
        return 2;

    make_board(argv[optind]);
    wire_board();
    if (volts)
        load_millivolts(volts);
    if (eeprom)
        load_eeprom(eeprom);
    signal(SIGTERM, unplug);
    signal(SIGINT, unplug);
    if (link)
        open_pty(link);

    double from_s = our_s();
    avr_cycle_count_t slice = 0;
    int state = cpu_Running;
    while (!unplugged && state != cpu_Done && state != cpu_Crashed && !(end_s > 0 && board_s() >= end_s)) {
        if (avr->cycle >= slice) {
            pass_on();
            if (link && !look_at_pty()) {
                wait_s(0.002);
                continue;
            }
            slice = avr->cycle + SLICE;
            while (next_event < n_events && events[next_event].at_s <= board_s())
                happen(&events[next_event++]);
            let_hear();
            time_bytes();
            if (speed > 0)
                keep_pace(speed);
        }
        state = avr_run(avr);
        sleeps = sleeps && state == cpu_Sleeping;
    }
    pass_on();
    if (record)
        fclose(record);
    if (eeprom)
        save_eeprom(eeprom);
    if (link)
        unlink(link);
    printf("{\"board_s\": %.6f, \"our_s\": %.3f, \"sent\": %llu, \"conversions\": %llu, \"crashed\": %s}\n", board_s(),
           our_s() - from_s, (unsigned long long)all_sent, (unsigned long long)conversions,
           state == cpu_Crashed ? "true" : "false");
    return state == cpu_Crashed;
}
