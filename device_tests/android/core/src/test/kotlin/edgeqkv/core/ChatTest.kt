package edgeqkv.core

import kotlin.test.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull
import kotlinx.serialization.json.jsonArray
import kotlinx.serialization.json.jsonObject

class ChatTest {
    @Test
    fun conversationsAreWrittenAsPythonWritesThem() {
        for (case in Golden.cases("chat")) {
            val card = ChatCard.of(case.getValue("card").jsonObject)
            val messages = case.getValue("messages").jsonArray.map { it.jsonObject }.map {
                Message(Speaker.valueOf(it.text("role").uppercase()), it.text("content"))
            }
            assertEquals(case.text("text"), card.written(messages))
        }
    }

    @Test
    fun aBundleTellsItsTemplate() {
        assertEquals("<s>user\n", Bundle(Golden.bundle()).chat?.first)
        val without = Golden.bundle { it.replace("\"chat\": {", "\"chat\": null, \"other\": {") }
        assertNull(Bundle(without).chat)
    }

    @Test
    fun aSystemMessageThatTheTemplateDoesNotTakeIsRefused() {
        val card = ChatCard("a", "b", "c", "d", trimmed = false, system = null)
        assertFailsWith<EdgeQkvException> { card.written(listOf(Message(Speaker.SYSTEM, "x"))) }
    }
}
