/* Unshrug's reference firmware for an ATmega328P at 16 MHz (Arduino Uno, Nano).
 *
 * Timer 1 starts each sample, the ADC reads CHANNELS pins from A0 on back to back, and BLOCK samples make one frame:
 *
 *   wire   COBS( payload | crc16 ) 00                    crc16: polynomial 1021, from FFFF; all numbers little endian
 *
 *           0    1         2     4         8             8 + 2 x channels x block
 *   data   | 01 | ch : n  | seq | t_us    | i16 x ch x n |            ch in the upper four bits, n = BLOCK in the lower
 *
 *           0    1    2    3    4         6      7         9            13     14         16     18         20       22
 *   info   | 02 | ver | ch | n | rate_hz | bits | vref_mv | gain x 1000 | kind | firmware | boot | overruns | dropped |
 *
 * seq counts the blocks that were sampled, sent or not, so what is lost shows as a step in it. t_us is the time of the
 * tick at which the block's first sample began. An info frame goes out at boot, each second and on request.
 *
 * Commands are single bytes that may be repeated: 'b' send data, 's' do not, 'v' send an info frame. Others do nothing.
 * It samples and sends from reset on; while it does not send it goes on sampling, so that a pause is a gap in seq.
 */
#include <avr/eeprom.h>
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/power.h>
#include <avr/sleep.h>
#include <avr/wdt.h>
#include <stdbool.h>
#include <stdint.h>
#include <util/atomic.h>
#include <util/crc16.h>

/* ---- Build options: `make firmware CHANNELS=4`; README.md has what fits together ---- */

#ifndef CHANNELS
#define CHANNELS 2
#endif
#ifndef RATE_HZ
#define RATE_HZ 1000
#endif
#ifndef BLOCK
#define BLOCK 8 /* samples in a frame */
#endif
#ifndef BAUD
#define BAUD 115200
#endif
#ifndef VREF_MV
#define VREF_MV 5000 /* what the board's 5V pin measures; it is the ADC's reference */
#endif
#ifndef GAIN
#define GAIN 200 /* of the sensor; MyoWare 2.0 has 200 at its RAW pin */
#endif
#ifndef FIRST_SEQ
#define FIRST_SEQ 0 /* where the counter and the clock begin, so that a test need not wait for their ends */
#endif
#ifndef FIRST_US
#define FIRST_US 0
#endif

#define FIRMWARE 0x0100 /* 1.0 */
#define PROTOCOL 1
#define ADC_BITS 10
#define KIND_RAW 0

#define PERIOD_US (1000000UL / RATE_HZ)
#define UBRR ((F_CPU / 4 / BAUD - 1) / 2) /* at double speed, rounded to the nearest */
#define REAL_BAUD (F_CPU / 8 / (UBRR + 1))

#define VALUES (BLOCK * CHANNELS)
#define COBS_BYTES 2 /* one code byte, as no frame reaches 254, and the closing zero */
#define CRC_BYTES 2
#define DATA_BYTES (8 + 2 * VALUES + CRC_BYTES + COBS_BYTES)
#define INFO_BYTES (22 + CRC_BYTES + COBS_BYTES)
#define INFO_BLOCKS ((RATE_HZ + BLOCK - 1) / BLOCK) /* a second */
#define BYTES_PER_S (DATA_BYTES * ((RATE_HZ + BLOCK - 1) / BLOCK) + INFO_BYTES)

/* The first conversion after the ADC is switched on takes 25 of its clocks, each further one 13 and up to one of
 * waiting. 125 kHz gives all ten bits; 250 kHz, a little beyond what the data sheet promises them for, is for high
 * rates. */
#define ADC_CLOCKS (25 + 14 * CHANNELS)
#define ADC_SPARE_US 60
#if ADC_CLOCKS * 8 + ADC_SPARE_US <= PERIOD_US
#define ADC_SPEED (_BV(ADPS2) | _BV(ADPS1) | _BV(ADPS0))
#elif ADC_CLOCKS * 4 + ADC_SPARE_US <= PERIOD_US
#define ADC_SPEED (_BV(ADPS2) | _BV(ADPS1))
#else
#error "the ADC cannot read so many CHANNELS at this RATE_HZ"
#endif

#if F_CPU != 16000000
#error "F_CPU: this is for a board with 16 MHz"
#endif
#if CHANNELS < 1 || CHANNELS > 4
#error "CHANNELS: 1 to 4, on A0 to A3"
#endif
#if BLOCK < 1 || BLOCK > 15
#error "BLOCK: 1 to 15 samples in a frame"
#endif
#if RATE_HZ < 250 || RATE_HZ > 4000 || 1000000 % RATE_HZ
#error "RATE_HZ: 250 to 4000, and a whole number of microseconds from sample to sample (250, 500, 1000, 2000 ...)"
#endif
#if VREF_MV < 1000 || VREF_MV > 5500
#error "VREF_MV: 1000 to 5500, in millivolt"
#endif
#if GAIN < 1 || GAIN > 1000000
#error "GAIN: 1 to 1000000"
#endif
#if BAUD < 9600 || BAUD > 1000000
#error "BAUD: 9600 to 1000000"
#endif
#if REAL_BAUD * 1000 > BAUD * 1025 || REAL_BAUD * 1000 < BAUD * 975
#error "BAUD: 16 MHz cannot be divided to it within 2.5 % (57600, 115200, 250000, 500000 and 1000000 work)"
#endif
#if BYTES_PER_S > BAUD / 10 && !defined(ALLOW_LOSS)
#error "BAUD is too low for CHANNELS, RATE_HZ and BLOCK: raise it, or raise BLOCK; ALLOW_LOSS=1 builds it all the same"
#endif

/* ---- Sampling: two blocks, of which the interrupts fill one while the main loop sends the other ---- */

static volatile int16_t codes[2][VALUES];
static volatile uint8_t filling;    /* the block that the interrupts fill */
static volatile bool full;          /* the other one waits for the main loop, with: */
static volatile uint16_t full_seq;  /*   its number */
static volatile uint32_t full_us;   /*   and the time of its first sample */
static volatile uint16_t overruns;  /* blocks for which the main loop came too late */

static volatile bool sending = true;
static volatile bool want_info = true;

/* Switching the ADC on together with the start also starts its clock anew: the delay is the same every time. */
static inline void convert(uint8_t channel) {
    ADMUX = _BV(REFS0) | channel;
    ADCSRA = _BV(ADEN) | _BV(ADSC) | _BV(ADIE) | ADC_SPEED;
}

static uint32_t now_us = FIRST_US - PERIOD_US; /* adding, not multiplying, wraps right at any rate */

ISR(TIMER1_COMPA_vect) {
    convert(0);
    now_us += PERIOD_US;
}

static inline void block_is_full(uint32_t first_us) {
    static uint16_t seq = FIRST_SEQ;
    static uint16_t until_info = INFO_BLOCKS;
    if (full) {
        overruns++; /* the next block takes the place of this one */
    } else {
        full_seq = seq;
        full_us = first_us;
        full = true;
        filling ^= 1;
    }
    seq++;
    if (--until_info == 0) {
        until_info = INFO_BLOCKS;
        want_info = true;
    }
}

ISR(ADC_vect) {
    static bool settled;
    static uint8_t channel, filled;
    static uint32_t first_us;
    if (!settled) { /* the first conversion is thrown away: the reference comes up in it */
        settled = true;
        convert(0);
        return;
    }
    if (filled == 0)
        first_us = now_us;
    codes[filling][filled++] = ADC;
    if (++channel < CHANNELS) {
        convert(channel);
        return;
    }
    channel = 0;
    settled = false;
    ADCSRA = 0; /* an ADC that is left on starts a conversion of its own whenever the processor falls asleep */
    if (filled == VALUES) {
        filled = 0;
        block_is_full(first_us);
    }
}

/* ---- Serial port ---- */

#define TX_SIZE 256 /* as far as uint8_t counts, so that indices wrap by themselves */
#if DATA_BYTES + INFO_BYTES >= TX_SIZE
#error "BLOCK: a frame must fit the transmit buffer"
#endif

static volatile uint8_t tx[TX_SIZE];
static volatile uint8_t tx_in, tx_out; /* tx_in is where the next frame begins: only whole frames become visible */
static uint16_t dropped;               /* blocks for which there was no room */

ISR(USART_UDRE_vect) {
    UDR0 = tx[tx_out++];
    if (tx_out == tx_in)
        UCSR0B &= ~_BV(UDRIE0);
}

ISR(USART_RX_vect) {
    bool damaged = UCSR0A & (_BV(FE0) | _BV(DOR0)); /* to be read before the byte */
    uint8_t command = UDR0;
    if (damaged)
        return;
    if (command == 'b')
        sending = true;
    else if (command == 's')
        sending = false;
    else if (command == 'v')
        want_info = true;
}

static bool room_for(uint8_t bytes) {
    return (uint8_t)(tx_out - tx_in - 1) >= bytes;
}

/* ---- Frames: stuffed and summed byte by byte, straight into the transmit buffer ---- */

static uint8_t at;       /* where the next byte goes */
static uint8_t run_from; /* the code byte of the run of non-zero bytes that is being written */
static uint16_t crc;

static void begin_frame(void) {
    run_from = tx_in;
    at = run_from + 1;
    crc = 0xFFFF;
}

static void end_run(void) {
    tx[run_from] = at - run_from;
    run_from = at++;
}

static void put(uint8_t byte) {
    crc = _crc_xmodem_update(crc, byte);
    if (byte)
        tx[at++] = byte;
    else
        end_run();
}

static void put16(uint16_t value) {
    put(value);
    put(value >> 8);
}

static void put32(uint32_t value) {
    put16(value);
    put16(value >> 16);
}

static void end_frame(void) {
    put16(crc);
    end_run();
    tx[run_from] = 0; /* in place of a further run */
    tx_in = at;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) { UCSR0B |= _BV(UDRIE0); }
}

static void send_block(void) {
    const volatile int16_t *value = codes[filling ^ 1]; /* stays so while `full` is set */
    begin_frame();
    put(1);
    put(CHANNELS << 4 | BLOCK);
    put16(full_seq);
    put32(full_us);
    for (uint8_t i = 0; i < VALUES; i++)
        put16(value[i]);
    end_frame();
}

static void send_info(uint16_t boot) {
    uint16_t late;
    ATOMIC_BLOCK(ATOMIC_RESTORESTATE) { late = overruns; }
    begin_frame();
    put(2);
    put(PROTOCOL);
    put(CHANNELS);
    put(BLOCK);
    put16(RATE_HZ);
    put(ADC_BITS);
    put16(VREF_MV);
    put32(GAIN * 1000UL);
    put(KIND_RAW);
    put16(FIRMWARE);
    put16(boot);
    put16(late);
    put16(dropped);
    end_frame();
}

/* ---- Start and main loop ---- */

/* Tell one start from the next. Not at address 0, which a failing supply damages first. */
static uint16_t count_boot(void) {
    uint16_t *const cell = (uint16_t *)2;
    uint16_t boot = eeprom_read_word(cell) + 1;
    eeprom_update_word(cell, boot);
    return boot;
}

static void switch_off_the_unused(void) {
    MCUSR = 0; /* a watchdog that a bootloader has left on would bite */
    wdt_disable();
    power_spi_disable();
    power_twi_disable();
    power_timer0_disable();
    power_timer2_disable();
    ACSR = _BV(ACD);
    DIDR0 = (1 << CHANNELS) - 1; /* no digital inputs on pins that sit at mid-supply */
}

static void start_serial(void) {
    UBRR0 = UBRR;
    UCSR0A = _BV(U2X0);
    UCSR0C = _BV(UCSZ01) | _BV(UCSZ00);
    UCSR0B = _BV(RXEN0) | _BV(TXEN0) | _BV(RXCIE0);
    tx[tx_in++] = 0; /* ends what a reset has cut off, so that the first frame is whole */
}

static void start_sampling(void) {
    TCCR1A = 0;
    TCCR1B = _BV(WGM12) | _BV(CS11); /* two counts in a microsecond, from 0 to OCR1A */
    OCR1A = 2 * PERIOD_US - 1;
    TIMSK1 = _BV(OCIE1A);
}

/* Sleep until an interrupt, unless one has come since the main loop looked. */
static void sleep_if_idle(void) {
    cli();
    if (!full && !want_info) {
        sleep_enable();
        sei(); /* takes effect after the next instruction, so nothing gets in between */
        sleep_cpu();
        sleep_disable();
    }
    sei();
}

int main(void) {
    switch_off_the_unused();
    uint16_t boot = count_boot();
    start_serial();
    start_sampling();
    set_sleep_mode(SLEEP_MODE_IDLE);
    sei();
    for (;;) {
        if (want_info && room_for(INFO_BYTES)) {
            want_info = false;
            send_info(boot);
        }
        if (full) {
            if (sending && room_for(DATA_BYTES))
                send_block();
            else if (sending)
                dropped++;
            full = false;
        }
        sleep_if_idle();
    }
}
