package edgeqkv.core

import kotlin.io.path.createTempFile
import kotlin.test.Test
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonPrimitive

class TokenizerTest {
    private val tokenizer = Tokenizer(Golden.tokenizer)

    @Test
    fun textsHaveTheTokensThatPythonGivesThem() {
        for (case in Golden.cases("tokenizer")) {
            assertEquals(case.ints("ids"), tokenizer.encode(case.text("text")).toList(), case.text("text"))
            assertEquals(case.text("decoded"), tokenizer.decode(case.ints("ids").toIntArray()))
        }
    }

    @Test
    fun textStreamsInWholeCharacters() {
        for (case in Golden.cases("tokenizer")) {
            val stream = tokenizer.Stream()
            val pieces = case.ints("ids").map(stream::add).filter { it.isNotEmpty() }
            assertEquals(case.getValue("pieces").jsonArray.map { it.jsonPrimitive.content }, pieces)
            assertEquals("", stream.end())
        }
    }

    @Test
    fun aCharacterThatIsCutOffIsShownAsSuch() {
        val cut = tokenizer.encode("🙂").dropLast(1).toIntArray()
        assertEquals("\uFFFD", tokenizer.decode(cut))
    }

    @Test
    fun whatTheReaderCannotDoIsNamed() {
        val text = Golden.tokenizer.readText()
        val other = createTempFile("tokenizer", ".json").toFile()
        other.writeText(text.replace("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}"))
        val error = assertFailsWith<EdgeQkvException> { Tokenizer(other) }
        assertContains(error.message!!, "asks for a normalizer, which this small reader cannot do")
    }
}
